"""Rivals for the comparison's own tests, which trainer processes can import by name."""

from rivals.numpy_shard import Shard, Split, rows_of

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival
from rowloom.deploy.launch.processes import python


class Fake(Rival):
    """In this process, in numpy, with a server process that does nothing."""

    name, version = "fake", "1"

    def _start(self) -> None:
        code = "print('up', flush=True); import sys; sys.stdin.read()"
        self.process = self._serve(python("-c", code))
        self.process.first_line()
        self._shards = [Shard(rows_of(s, self.servers, self.rows), self.dim) for s in range(self.servers)]

    def pull(self, ids):
        split = Split(ids, self.servers)
        return split.rows([shard.pull(at) for shard, at in zip(self._shards, split.at, strict=True)])

    def push(self, ids, grads):
        split = Split(ids, self.servers)
        for shard, at, part in zip(self._shards, split.at, split.grads(grads), strict=True):
            shard.push(at, part)


class Shared(Fake):
    """Lets several trainers in."""

    takes_crews = True

    def _start(self) -> None:
        assert len(self.crew.ports) == self.servers + self.crew.trainers
        super()._start()


class NotThere(Rival):
    def _start(self) -> None:
        raise InvalidRequest("it is not installed here: pip install it")
