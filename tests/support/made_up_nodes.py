"""A launcher of threads that says that each of its servers is on a node."""

from collections.abc import Collection, Mapping, Sequence

from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.nodes.nodes import Node, check_fits
from rowloom.proto.errors import Unavailable

A, B, C = "a" * 56, "b" * 56, "c" * 56


class NodesLauncher(ThreadLauncher):
    """Each server is on the node with the fewest that may be used; a standby on another one than its shard's."""

    def __init__(self) -> None:
        super().__init__()
        self.there = {id: Node(id, f"10.0.0.{k}", free={"CPU": 8.0}) for k, id in enumerate((A, B, C))}
        self.placed: dict[int, str] = {}
        self.avoided: Collection[str] = ()
        self.env: Mapping[str, object] = {}
        self.envs: dict[int, Mapping[str, object]] = {}
        self.coordinator = C

    def start(self, key: int):
        self.envs[key] = self.env
        return super().start(key)

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        usable = [n.id for n in self.there.values() if n.id not in self.avoided and not n.draining]
        for at, key in enumerate(keys):
            taken = list(self.placed.values())
            may = [id for id in usable if not apart or id != self.placed[apart[at]] or len(self.there) == 1]
            if not may:
                raise Unavailable("no other node")
            self.placed[key] = min(may, key=lambda id: (taken.count(id), id))

    def stop(self, key: int, grace_s: float) -> None:
        self.placed.pop(key, None)
        super().stop(key, grace_s)

    def nodes(self) -> list[Node]:
        return list(self.there.values())

    def where(self, keys: Sequence[int]) -> dict[int, str]:
        return {key: self.placed[key] for key in keys if key in self.placed}

    def here(self) -> str:
        return self.coordinator

    def check_room(self, count: int, without: Collection[str]) -> None:
        check_fits(count, {"CPU": 1.0}, [n for n in self.nodes() if n.id not in without])

    def may_part(self, keys: Sequence[int]) -> bool:
        return len([n for n in self.there if n not in self.avoided]) > 1

    def avoid(self, ids: Collection[str]) -> None:
        self.avoided = tuple(ids)

    def use(self, runtime_env: Mapping[str, object]) -> None:
        self.env = runtime_env
