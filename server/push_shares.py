"""How much of one push a shard has: a sum for each origin, as exact fractions.

A module of its own, because the coordinator adds them up (`deploy/control/hold.py`), and starting a coordinator must
not cost it the kernels that a ledger's neighbours need.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import gcd

from ..proto import rowloom_pb2 as pb

MAX_DENOMINATOR = 1 << 63  # the finest share that is added up; a push of finer ones is never whole

Origin = tuple[int, int]
PushShares = dict[Origin, tuple[int, int]]  # by origin: (count, of)


def add_share(shares: PushShares, origin: Origin, parts: int) -> None:
    """One of `parts` equal parts of the push was applied."""
    count, of = shares.get(origin, (0, parts))
    if of == parts:
        shares[origin] = count + 1, of
        return
    count, of = count * parts + of, of * parts
    common = gcd(count, of)
    if of // common < MAX_DENOMINATOR:
        shares[origin] = count // common, of // common


def most_of(some: PushShares, others: PushShares) -> PushShares:
    """Of each origin, the larger share: sums of one origin only grow, where its shard is."""
    found = dict(some)
    for origin, (count, of) in others.items():
        mine, mine_of = found.get(origin, (0, 1))
        if count * mine_of > mine * of:
            found[origin] = count, of
    return found


def is_whole(shares: PushShares) -> bool:
    """Whether all of the push is there. One without shares has a single part, which is there."""
    return not shares or sum(Fraction(count, of) for count, of in shares.values()) >= 1


def from_messages(messages: Iterable[pb.PushShare]) -> PushShares:
    """As they came from a shard."""
    return {(s.epoch, s.shard): (s.count, s.of) for s in messages}


def as_messages(shares: PushShares | None) -> list[pb.PushShare]:
    """As they go to another shard, or to the coordinator."""
    some = (shares or {}).items()
    return [pb.PushShare(epoch=e, shard=s, count=count, of=of) for (e, s), (count, of) in some]
