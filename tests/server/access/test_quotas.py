"""Quotas on rows and bytes, where a shard holds to them: whole pushes, once each, and nothing that was acknowledged."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from rowloom.client import SGD, InvalidRequest, TableSpec, Zeros
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Push
from rowloom.proto.errors import QuotaExceeded
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.access.quotas import Quota, Quotas, share
from rowloom.server.call import Call, Caller
from rowloom.server.durable.records import Kind
from rowloom.server.durable.replay import Replay
from rowloom.server.host import Host
from rowloom.server.shard import Shard

SPEC = TableSpec("t", None, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
MINE = TableEntry(1, SPEC, owner="ann")
ALSO = TableEntry(2, dataclasses.replace(SPEC, name="u"), owner="ann")
FREE = TableEntry(3, dataclasses.replace(SPEC, name="v"))
TABLES = (MINE, ALSO, FREE)
ROW_BYTES = 4 * 2 + 8
LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))


def host(quotas: str | None, *, layout: Layout = LAYOUT) -> Host:
    made = Host()
    adopt(made, quotas, layout=layout, fresh=True)
    return made


def adopt(host: Host, quotas: str | None, *, layout: Layout = LAYOUT, fresh: bool = False) -> None:
    request = pb.AdoptRequest(
        layout=layout.to_message(),
        fresh=fresh,
        tables=[entry.to_message() for entry in TABLES],
        turn=1,
        quotas=quotas,
    )
    host.adopt(request)


def rows(most: int | None, **others: int) -> str:
    return json.dumps({"default": {"rows": most} | others})


def push(host: Host, number: int, ids: dict[int, list[int]], layout: Layout = LAYOUT) -> bool:
    """Number of the push, ids by table. Returns whether it had been applied before."""
    data = message(number, ids, layout)
    (reply,) = host.handle(Call("/rowloom.v1.Shard/Push", data, Caller("test"))).buffers
    return pb.PushReply.FromString(bytes(reply)).duplicate


def message(number: int, ids: dict[int, list[int]], layout: Layout = LAYOUT) -> bytes:
    tables = [
        (table, np.array(some, np.int64), Block(np.ones((len(some), 2), np.float32)))
        for table, some in ids.items()
    ]
    name = PartName(layout.epoch, 0, number)
    return joined(Push(layout.header(0), 7, (name,), number, tables).encode())


def count(host: Host) -> list[int]:
    assert host.shard is not None
    return [len(host.shard.tables[entry.number]) for entry in TABLES]


def test_a_push_is_refused_whole_and_says_what_the_quota_is_and_who_raises_it() -> None:
    full = host(rows(5))
    push(full, 1, {1: [1, 2], 2: [1], 3: [1]})
    with pytest.raises(
        QuotaExceeded, match=r"'ann' has 3 rows on this shard.*would add 3: its quota is 5 rows"
    ) as e:
        push(full, 2, {1: [2, 3], 2: [2, 3], 3: [7, 8]})
    assert "`quotas` in the deploy config, then `rowloom apply`" in str(e.value)
    assert count(full) == [2, 1, 1]
    push(full, 3, {1: [2, 3, 3, 2, 3]})  # of ids that come twice, one row
    push(full, 4, {2: [2]})
    push(full, 5, {3: list(range(100))})  # nobody's quota
    assert count(full) == [3, 2, 100]


def test_a_push_that_was_refused_is_applied_once_when_the_quota_is_raised_and_its_repeat_is_acknowledged() -> (
    None
):
    full = host(rows(1))
    assert not push(full, 1, {1: [1]})
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            push(full, 2, {1: [2, 3]})
    adopt(full, rows(3))
    assert not push(full, 2, {1: [2, 3]})
    adopt(full, rows(0))
    assert push(full, 2, {1: [2, 3]})
    assert push(full, 1, {1: [1]})
    assert full.shard is not None
    out = np.empty((3, 2), np.float32)
    full.shard.tables[1].pull(np.array([1, 2, 3]), out)
    assert (out == -1.0).all()
    assert full.shard.owned.refused == {("ann", "rows"): 3}


def test_rows_that_exist_are_changed_also_beyond_a_quota_that_was_lowered() -> None:
    full = host(rows(10))
    push(full, 1, {1: [1, 2, 3]})
    adopt(full, rows(1))
    push(full, 2, {1: [3, 2, 1]})
    with pytest.raises(QuotaExceeded):
        push(full, 3, {1: [1, 4]})
    adopt(full, None)  # of a coordinator that knows of none: they stay
    with pytest.raises(QuotaExceeded):
        push(full, 3, {1: [1, 4]})


def test_bytes_are_those_of_weights_slots_and_id() -> None:
    full = host(json.dumps({"default": {"bytes": 3 * ROW_BYTES}}))
    push(full, 1, {1: [1, 2, 3]})
    with pytest.raises(
        QuotaExceeded, match=f"has {3 * ROW_BYTES} bytes.*would add {ROW_BYTES}: its quota is"
    ):
        push(full, 2, {2: [1]})
    assert full.shard is not None
    uses = {(use.what, use.used, use.limit) for use in full.shard.statistics().quotas}
    assert uses == {("rows", 3, 0), ("bytes", 3 * ROW_BYTES, 3 * ROW_BYTES)}


def test_each_shard_has_an_equal_share_and_a_refusal_says_so() -> None:
    layout = Layout("c", 1, tuple(ShardAddress(i, f"h{i}:1", 1) for i in range(3)))
    full = host(rows(7), layout=layout)
    push(full, 1, {1: [0, 3, 6]}, layout)
    with pytest.raises(
        QuotaExceeded, match="quota is 7 rows, of which 3 may be here; each of 3 shards has an equal"
    ):
        push(full, 2, {1: [9]}, layout)
    assert [share(7, n) for n in (1, 2, 3, 7, 8)] == [7, 4, 3, 1, 1]


def test_what_a_log_or_another_shard_has_is_never_refused() -> None:
    full = host(rows(2))
    assert full.shard is not None
    full.shard.tables[1].install(np.arange(5), np.ones((5, 2), np.float32), [])
    assert count(full)[0] == 5
    shard, record = Shard(LAYOUT, 0, TABLES), SimpleNamespace(kind=Kind.PUSH, lsn=1)
    Replay(shard).redo((record, memoryview(message(1, {1: [1, 2, 3]}))), compare=False)
    full = Host(quotas=Quotas.from_json(rows(2)))
    full.recovered(shard, None)
    assert push(full, 1, {1: [1, 2, 3]})
    with pytest.raises(QuotaExceeded, match="'ann' has 3 rows"):
        push(full, 2, {1: [9]})


def test_who_is_named_has_its_own_quotas_only_and_the_clusters_tables_have_none() -> None:
    quotas = Quotas.from_json('{"default": {"rows": 1, "calls": 2}, "principals": {"ann": {"tables": 4}}}')
    assert quotas.of("ann") == Quota(tables=4)
    assert quotas.of("bob") == Quota(rows=1, calls=2)
    assert quotas.of("") == Quota()
    assert Quotas.from_json("") == Quotas()


@pytest.mark.parametrize("text", ["[]", "{", '{"default": {"rows": -1}}', '{"default": {"row": 1}}', "3"])
def test_what_are_no_quotas_is_refused_and_changes_nothing(text) -> None:
    full = host(rows(1))
    with pytest.raises(InvalidRequest, match="no quotas"):
        adopt(full, text)
    push(full, 1, {1: [1]})
    with pytest.raises(QuotaExceeded):
        push(full, 2, {1: [2]})
