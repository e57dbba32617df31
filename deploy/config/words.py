"""How messages count, and how people write a time."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from ...proto.spec import Dealing, TableSpec, cut_short

TIME = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*$")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def counted(n: int, noun: str, nouns: str = "") -> str:
    """`1 shard`, `2 shards`. nouns: where an s does not make it more of them."""
    return f"{n} {noun}" if n == 1 else f"{n} {nouns or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def shards_named(indexes: Sequence[int]) -> str:
    """`shard 1`, `shards 0 and 2`."""
    return f"{'shard' if len(indexes) == 1 else 'shards'} {listed([str(index) for index in indexes])}"


def standbys_of(indexes: Sequence[int]) -> str:
    """`the standby of shard 1`, `the standbys of shards 0 and 2`."""
    return f"the {'standby' if len(indexes) == 1 else 'standbys'} of {shards_named(indexes)}"


def scaling_to(shards: int, dealings: Mapping[str, Dealing]) -> str:
    """What a scaling does. dealings: by name, how the ids of tables are dealt from then on."""
    tables = "".join(
        f", table {name!r} by {'mod of a hash' if how.hash_ids else how.partition}"
        for name, how in dealings.items()
    )
    return f"scaling to {counted(shards, 'shard')}{tables}"


def to_a_port(port: int, why: str, *, runs: bool = False) -> str:
    """What follows on why a coordinator did not start: what to do where its port is taken. Empty: that is not why.

    runs: its shards do, and it starts with the config that they have.
    """
    if not port or not why.endswith(f":{port}: is the port taken?"):
        return ""
    who = f"`ss -ltnp sport = :{port}` shows who has it"
    return f" {who}" if runs else f" Say another `port:` in the config, or none for any free one; {who}"


def seconds_of(text: str) -> float | None:
    """Seconds from `90s`, `10m`, `1.5h` or `1d`; None: it is no time above 0."""
    match = TIME.fullmatch(text)
    return (float(match[1]) * _UNITS[match[2]] or None) if match else None


def told_apart(exists: TableSpec, asked: TableSpec) -> str:
    """How the spec of a table that exists differs from one that somebody asked for."""
    names = [f.name for f in dataclasses.fields(asked) if getattr(exists, f.name) != getattr(asked, f.name)]
    has, wanted = (
        ", ".join(f"{name}={cut_short(getattr(spec, name))}" for name in names) for spec in (exists, asked)
    )
    return f"the table that exists has {has}; you asked for {wanted}"
