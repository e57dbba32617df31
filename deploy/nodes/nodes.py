"""The nodes that servers can be started on: which one is meant, what must leave it, whether others have room."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...proto.errors import InvalidRequest, Unavailable
from ..config.words import counted

SHORTEST_ID = 4  # letters of an id that are taken for its beginning


@dataclass(frozen=True)
class Node:
    """A node, mostly one that is alive.

    Attributes:
        id: for ever its own.
        address: of its host.
        name: that its owner gave it; its address, if nobody did.
        draining: who runs the nodes takes it away: it gets nothing new.
        free: by resource, what nobody has.
        total: by resource, all that it has; nothing of one that has ended.
        alive: it has not ended.
        labels: by name.
    """

    id: str
    address: str
    name: str = ""
    draining: bool = False
    free: Mapping[str, float] = field(default_factory=dict[str, float])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    total: Mapping[str, float] = field(default_factory=dict[str, float])
    alive: bool = True

    def __str__(self) -> str:
        name = f"{self.name} at " if self.name not in ("", self.address) else ""
        return f"{name}{self.address} ({self.id[:8]})"


class Nodes(Protocol):
    """What a launcher knows of its nodes. Methods may block; they raise Unavailable when nobody answers."""

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        ...

    def where(self, keys: Sequence[int]) -> dict[int, str]:
        """By launcher key, the id of the node on which its server is; none for one that is not known to be anywhere."""
        ...

    def here(self) -> str:
        """The id of the node of this process."""
        ...

    def check_room(self, count: int, without: Collection[str]) -> None:
        """Raise Unavailable if the other nodes have no room for so many servers now. without: ids of nodes."""
        ...

    def may_part(self, keys: Sequence[int]) -> bool:
        """Whether standbys of the servers under these keys would be on other nodes than those, if they started now."""
        ...

    def avoid(self, ids: Collection[str]) -> None:
        """Start nothing on these any more. Raises InvalidRequest: this launcher cannot."""
        ...

    def use(self, runtime_env: Mapping[str, object]) -> None:
        """What is started from now on has this environment."""
        ...


def named(text: str, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that somebody may mean by that."""
    found = [n for n in nodes if text in (n.id, n.address, n.name)]
    if not found and len(text) >= SHORTEST_ID:
        found = [n for n in nodes if n.id.startswith(text.lower())]
    return found


def meant(text: str, nodes: Sequence[Node]) -> Node:
    """The node that somebody means by its address, its name, or the beginning of its id.

    Raises:
        InvalidRequest: there is none, or more than one.
    """
    found = named(text, nodes)
    if len(found) == 1:
        return found[0]
    there = "; ".join(map(str, found or nodes)) or "none"
    why = f"{counted(len(found), 'node')} are meant by" if found else "there is no node"
    how = (
        "say the beginning of its id"
        if found
        else "say the address, the name, or the beginning of the id of one"
    )
    raise InvalidRequest(f"{why} {text!r}: {there}; {how}")


def fitting(bundle: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """How many servers fit into what is free on nodes now. bundle: what each takes."""
    return sum(slots(bundle, node) for node in nodes if not node.draining)


def slots(bundle: Mapping[str, float], node: Node) -> int:
    """How many servers fit into what is free on a node now. bundle: what each takes."""
    each = (int(node.free.get(name, 0.0) / wanted + 1e-9) for name, wanted in bundle.items() if wanted)
    return min(each, default=0)


def could_hold(bundle: Mapping[str, float], node: Node) -> bool:
    """Whether a node has room for a server when it holds nothing else. One that has ended may have had."""
    return not node.alive or all(node.total.get(name, 0.0) >= wanted for name, wanted in bundle.items())


def check_fits(count: int, bundle: Mapping[str, float], nodes: Sequence[Node]) -> None:
    """Raise Unavailable if so many servers do not fit on nodes now."""
    fit = fitting(bundle, nodes)
    if fit < count:
        raise Unavailable(
            f"no other node has room for {counted(count, 'shard')} of {in_words_of(bundle)} each: {fit} fit into what "
            f"is free on the {len(nodes)} others ({free_of(bundle, nodes)}). Nothing was moved: add a node, or end "
            "something"
        )


def in_words_of(bundle: Mapping[str, float]) -> str:
    """What a server takes."""
    return ", ".join(f"{name} {wanted:g}" for name, wanted in bundle.items())


def free_of(bundle: Mapping[str, float], nodes: Sequence[Node]) -> str:
    """In words, what each of some nodes has free now of what a server takes."""
    each = (
        f"{node}: {in_words_of({name: node.free.get(name, 0.0) for name in bundle})}" for node in nodes[:8]
    )
    return "; ".join(each) or "there is none"
