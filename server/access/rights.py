"""Rights: verbs on tables, who has them, and which ones each method takes. Pure.

A method that is not named here takes `admin` on all tables. So what is added to the contract is closed to trainers
until somebody opens it here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ...proto import methods
from ...proto.errors import InvalidRequest, PermissionDenied

PULL, PUSH, CREATE, ADMIN = VERBS = ("pull", "push", "create", "admin")
ALL = "*"
_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}")

# Verbs that a caller must have on some table, before its message is looked at. (): it is enough to be known.
NEEDED: dict[str, tuple[str, ...]] = {
    methods.PULL: (PULL,),
    methods.PULL_BAGS: (PULL,),
    methods.PUSH: (PUSH,),
    methods.STEP: (PUSH, PULL),
    methods.READ_ROWS: (PULL,),
    methods.HOTTEST_IDS: (),  # and then, of the table that it names, to pull from it or to administer it
    methods.DESCRIBE_LANE: (),
    methods.LIST_TABLES: (),
    methods.STATISTICS: (),
    methods.DESCRIBE_LAYOUT: (),
    methods.HEALTH: (),
    methods.STATUS: (),
    methods.CREATE_TABLE: (CREATE,),
    methods.DROP_TABLE: (ADMIN,),
    methods.SET_LEARNING_RATE: (ADMIN,),
    methods.DESCRIBE_RESTORED: (PULL,),  # it holds what trainers keep beside rows
}


@dataclass(frozen=True)
class Grant:
    """One verb, or all of them, on the tables whose names a pattern fits."""

    verb: str
    tables: str

    @classmethod
    def parse(cls, text: object) -> Grant:
        """From `pull:users`, `push:ads.*`, `*:*`. Raises InvalidRequest."""
        verb, colon, tables = str(text).strip().partition(":")
        if not colon or verb not in (*VERBS, ALL) or not _PATTERN.fullmatch(tables):
            raise InvalidRequest(
                f"{text!r} is no right: it is VERB:TABLES, with a verb of {', '.join(VERBS)} or *, and a table's "
                "name in which * stands for anything, as pull:users or push:ads.*"
            )
        return cls(verb, tables)

    def __str__(self) -> str:
        return f"{self.verb}:{self.tables}"

    def covers(self, verb: str, table: str) -> bool:
        """Whether it is a right to do that with that table."""
        return self.verb in (verb, ALL) and fnmatchcase(table, self.tables)


@dataclass(frozen=True)
class Principal:
    """Somebody with a name and rights.

    Attributes:
        name: as in the file of tokens.
        grants: its rights.
        hashes: sha256 of each of its tokens.
    """

    name: str
    grants: tuple[Grant, ...] = ()
    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    def may(self, verb: str, table: str) -> bool:
        """Whether it may do that with that table."""
        return any(grant.covers(verb, table) for grant in self.grants)

    def check(self, verb: str, table: str) -> None:
        """Raise PermissionDenied if it may not."""
        if not self.may(verb, table):
            raise self._denied(f"{_DOES[verb]} table {table!r}", f"{verb}:{table}")

    def check_method(self, method: str) -> None:
        """Raise PermissionDenied if it may call a method with no message at all."""
        if method not in NEEDED:
            if not any(grant.verb in (ADMIN, ALL) and grant.tables == ALL for grant in self.grants):
                raise self._denied(f"call {method.rpartition('/')[2]}", f"{ADMIN}:{ALL}")
            return
        for verb in NEEDED[method]:
            if not any(grant.verb in (verb, ALL) for grant in self.grants):
                raise self._denied(f"{_DOES[verb]} any table", f"{verb}:TABLE")

    def _denied(self, what: str, lacking: str) -> PermissionDenied:
        has = ", ".join(map(str, self.grants)) or "no rights"
        return PermissionDenied(
            f"{self.name!r} may not {what}: it lacks the right {lacking} and has {has}; "
            "a token that has it can be named (ROWLOOM_TOKEN_FILE, `token_file=`), and `rowloom secure token` makes one"
        )


_DOES = {PULL: "pull from", PUSH: "push to", CREATE: "create", ADMIN: "administer"}
