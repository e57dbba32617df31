"""The file of tokens as it is written: a principal more, another token for one, one less."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import yaml

from ...proto.errors import InvalidRequest
from ...server.access.rights import Grant, Principal
from ...server.access.tokens import hash_of, parse_tokens, read_tokens
from .private_files import prepared, write_private

TOKEN_BYTES = 32
PREFIX = "rowloom_"  # so that scanners for secrets, and people, see what it is
NO_RIGHTS = "none"  # in place of rights
MOST_TOKENS = 2  # of one principal: the newest, and the one that it takes the place of
_HEAD = """\
# Who may do what in a rowloom cluster. A token itself is in a file of whoever shows it; here is its sha256.
# `rowloom secure token` and `rowloom secure revoke` change this file; running servers see it within a second or two.
"""


def new_token() -> str:
    """256 random bits, as text."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def add_token(file: Path, name: str, allow: Sequence[str], where: Path) -> Principal:
    """Give somebody a token.

    Args:
        file: of tokens; made if it is not there.
        name: whose it is. One that is known gets another token: the one before goes on to count, those before do not.
        allow: its rights, as `pull:users`; none: those that it has; ("none",): it may only look.
        where: the file that the token goes to.

    Raises:
        InvalidRequest: a right or a name is none, or `file` or `where` cannot be used; nothing was changed.
    """
    with _changing(file):
        known = read_tokens(str(file)) if file.exists() else {}
        before = known.get(name, Principal(name))
        if not allow and name not in known:
            raise InvalidRequest(
                f"{name!r} is not known yet: say what it may do, as --allow pull:users,push:users, or --allow none: "
                "only see the status and metrics"
            )
        looks = list(allow) == [NO_RIGHTS]
        grants = () if looks else tuple(Grant.parse(text) for text in allow) or before.grants
        token = new_token()
        hashes = (*before.hashes, hash_of(token))[-MOST_TOKENS:]
        principal = Principal(name, grants, hashes)
        text = text_of({**known, name: principal})
        parse_tokens(yaml.safe_load(text), str(file))
        # Where the token goes to must have room for it before the one that it takes the place of is gone; and it is
        # there only when it is known, so that nobody shows one that is not.
        with prepared(where, token.encode() + b"\n") as put:
            write_private(file, text.encode())
            put()
        return principal


def revoke(file: Path, name: str) -> None:
    """Take all tokens of somebody away. Raises InvalidRequest: there is nobody of that name."""
    with _changing(file):
        known = read_tokens(str(file))
        if name not in known:
            there = ", ".join(sorted(known)) or "nobody"
            raise InvalidRequest(f"{file} has no {name!r}; there is {there}")
        del known[name]
        write_private(file, text_of(known).encode())


@contextlib.contextmanager
def _changing(file: Path) -> Generator[None]:
    """One at a time: who writes it whole must have read it whole."""
    try:
        with open(file.with_name(f".{file.name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as e:
        raise InvalidRequest(f"{file} cannot be changed: {e.strerror or e}") from None


def text_of(principals: Mapping[str, Principal]) -> str:
    """The file, for these principals."""
    said = {
        name: {"sha256": [one.hex() for one in who.hashes], "allow": [str(grant) for grant in who.grants]}
        for name, who in principals.items()
    }
    return _HEAD + yaml.safe_dump({"principals": said}, sort_keys=False)
