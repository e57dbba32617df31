"""The file of tokens: who has which rights, by the sha256 of what they show. The tokens themselves are not in it.

    principals:
      trainer:
        sha256: [5e88...]          # of one token, or of several, so that one can take the place of another
        allow: ["pull:*", "push:*", "create:*"]    # []: it may only look, as whoever reads metrics

Why sha256 is enough: tokens are 256 random bits, which nobody guesses, however fast a guess is. A slow hash is for
passwords. Which hash fits is found by comparing with all of them, in a time that does not depend on what is shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, cast

import yaml

from ...proto.errors import InvalidRequest, Unauthenticated
from ...proto.security.files import Reloaded, read_guarded
from .rights import Grant, Principal

PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")


class Access:
    """The file as it is now. Thread-safe.

    path: of the file. Raises InvalidRequest where it is used first, if it cannot be.
    """

    def __init__(self, path: str) -> None:
        self._file = Reloaded("the file of tokens", (path,), lambda: _Known(read_tokens(path)))

    def principals(self) -> dict[str, Principal]:
        """By name. Raises InvalidRequest: the file cannot be used."""
        return self._file.now().principals

    def identify(self, token: str) -> Principal:
        """Who shows a token; of its hashes it has that one only. Raises Unauthenticated: nobody has it."""
        found = self._owner(hash_of(token)) if token else None
        if found is None:
            lacking = "the token is of nobody here" if token else "a token is needed, and none was shown"
            raise Unauthenticated(
                f"{lacking}: give token_file= (or ROWLOOM_TOKEN_FILE) a file with one that the cluster knows"
            )
        return found

    def _owner(self, shown: bytes) -> Principal | None:
        found = self._file.now().owner(shown)
        # It may have been given this very moment.
        return found if found is not None else self._file.now(look=True).owner(shown)

    def renewed(self, principal: Principal) -> Principal:
        """Who was identified before, with the rights of now. Raises Unauthenticated: the token that it showed is gone.

        Another token of the same principal is no help: the one that was shown may have been replaced as it was stolen.
        """
        (shown,) = principal.hashes
        now = self._file.now().by_hash.get(shown)
        if now is None or now.name != principal.name:
            raise Unauthenticated(f"the token that {principal.name!r} showed is of nobody here any more")
        return now


class _Known:
    """What the file says, by name, and by hash: there each principal has one hash, that of what somebody showed."""

    def __init__(self, principals: dict[str, Principal]) -> None:
        self.principals = principals
        self.by_hash = {
            one: dataclasses.replace(principal, hashes=(one,))
            for principal in principals.values()
            for one in principal.hashes
        }

    def owner(self, shown: bytes) -> Principal | None:
        """Whose a hash is that nobody has vouched for yet; in a time that does not depend on it."""
        found = None
        for one, principal in self.by_hash.items():
            if hmac.compare_digest(one, shown):
                found = principal
        return found


def hash_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tokens(path: str) -> dict[str, Principal]:
    """The principals of a file, by name. Raises InvalidRequest; the message says what and where."""
    data = read_guarded(path, "the file of tokens")
    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"{path} is no file of tokens: it is no YAML") from None
    return parse_tokens(value, path)


def parse_tokens(value: Any, path: str) -> dict[str, Principal]:
    """As `read_tokens`, of what the YAML says."""
    top = _mapping(value, path, "principals: {NAME: {sha256: ..., allow: [...]}}")
    unknown = sorted(map(str, set(top) - {"principals"}))
    if unknown:
        raise InvalidRequest(f"{path}: {', '.join(unknown)} is no key here; there is principals")
    found: dict[str, Principal] = {}
    for name, entry in _mapping(top.get("principals") or {}, path, "principals: {NAME: ...}").items():
        if not isinstance(name, str) or not PRINCIPAL.fullmatch(name):
            raise InvalidRequest(f"{path}: {name!r} is no name: letters, digits, `.`, `_`, `@` and `-`")
        found[name] = _principal(name, entry, f"{path}: {name}")
    _check_distinct(found, path)
    return found


def _principal(name: str, entry: Any, where: str) -> Principal:
    said = _mapping(entry, where, "{sha256: ..., allow: [...]}")
    unknown = sorted(map(str, set(said) - {"sha256", "allow"}))
    if unknown:
        raise InvalidRequest(f"{where}: {', '.join(unknown)} is no key here; there are sha256 and allow")
    hashes = _list(said.get("sha256"), f"{where}.sha256")
    for one in hashes:
        if not isinstance(one, str) or not _HASH.fullmatch(one):
            raise InvalidRequest(
                f"{where}.sha256 must be 64 hexadecimal digits in quotes, the sha256 of a token and never the token "
                "itself: `rowloom secure token` writes it"
            )
        if bytes.fromhex(one) == hash_of(""):
            raise InvalidRequest(
                f"{where}.sha256 is that of no token at all, as an empty variable has it: "
                f"`rowloom secure token {name}` makes one"
            )
    allow = said.get("allow")
    grants = () if allow == [] else tuple(Grant.parse(one) for one in _list(allow, f"{where}.allow"))
    return Principal(name, grants, tuple(bytes.fromhex(one) for one in hashes))


def _check_distinct(found: Mapping[str, Principal], path: str) -> None:
    owners: dict[bytes, str] = {}
    for principal in found.values():
        for one in principal.hashes:
            if owners.setdefault(one, principal.name) != principal.name:
                raise InvalidRequest(
                    f"{path}: {owners[one]} and {principal.name} have the same token: make another"
                )


def _mapping(value: Any, where: str, right: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: must be a mapping such as {right}")
    return cast(dict[Any, Any], value)


def _list(value: Any, where: str) -> list[Any]:
    if value is None or value == []:
        raise InvalidRequest(f"{where} is missing")
    return cast(list[Any], value) if isinstance(value, list) else [value]
