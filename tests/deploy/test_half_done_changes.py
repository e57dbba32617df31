"""Changes that did not reach one shard: the cluster repeats them until they hold, and nobody has to ask again."""

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.performer import Performer
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.errors import NoAnswer, Unavailable

SPEC = TableSpec("t", 1000, dim=1, optimizer=SGD(lr=1.0), initializer=Zeros())


class Cut:
    """What the coordinator sends to one address does not arrive, until it heals."""

    def __init__(self, monkeypatch) -> None:
        self.address = ""
        original = Performer._call

        def call(performer, call, timeout_s):
            if call.address == self.address:
                return NoAnswer(f"{call.address} did not answer")
            return original(performer, call, timeout_s)

        monkeypatch.setattr(Performer, "_call", call)

    def heal(self) -> None:
        self.address = ""


def tables_of(address: str) -> dict[str, float]:
    """The tables that a shard has, and their learning rates."""
    with Channels() as channels:
        data = channels.call(address, methods.LIST_TABLES, pb.ListTablesRequest().SerializeToString(), 5.0)
    return {entry.spec.name: entry.lr for entry in pb.ListTablesReply.FromString(data).tables}


def test_a_change_that_one_shard_did_not_hear_of_stayed_half_done_until_somebody_asked_again(monkeypatch):
    cut = Cut(monkeypatch)
    with local_cluster(2, tables=[SPEC]) as cluster, cluster.connect(timeout_s=5.0) as client:
        table = client.table("t")
        first, second = (shard.address for shard in cluster._server.coordinator.layout.shards)
        cut.address = first
        changes = [lambda: table.set_lr(100.0), lambda: client.create_table(TableSpec("half", 10, dim=1))]
        for change in changes:
            with pytest.raises(Unavailable, match=r"is recorded; shard 0 at "):
                change()
            with cluster._server._performer.alone(
                "the next change", wait_s=10.0
            ):  # not behind this one's last attempt
                pass
        assert tables_of(first) == {"t": 0.0}  # that of its spec
        assert tables_of(second)["t"] == 100.0
        cut.heal()
        until(lambda: tables_of(first) == tables_of(second))
        assert tables_of(first).keys() == {"t", "half"}
        table.push([0, 1], [[-1.0], [-1.0]])
        np.testing.assert_array_equal(table.pull([0, 1])[:, 0], 100.0)
