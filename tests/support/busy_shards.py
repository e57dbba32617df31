"""A status of two shards that were asked for rows."""

from rowloom.client import TableSpec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry
from rowloom.server.metrics.traffic import BOUNDS_S


def counts(**by_bound: int) -> list[int]:
    """Calls by time; by_bound: _3=7: seven within the bound number 3."""
    found = [0] * (len(BOUNDS_S) + 1)
    for place, count in by_bound.items():
        found[int(place[1:])] = count
    return found


def status(uptime_s: float, rows: tuple[int, int], calls: int = 0) -> pb.StatusReply:
    """Two shards whose table `users` was asked for so many rows."""
    reply = pb.StatusReply(
        name="ads", tables=[TableEntry(1, TableSpec("users", 100, dim=2)).to_message()], durability="process"
    )
    for index, count in enumerate(rows):
        shard = reply.shards.add(health="serving")
        shard.shard.index, shard.shard.incarnation = index, index + 1
        said = shard.statistics
        said.uptime_s, said.pulled_rows = uptime_s, count
        said.counts.add(table="users", pulls=calls, pulled_rows=count)
        said.traffic.add(call="pull", table="users", counts=counts(_2=calls), sent_bytes=8 * count)
        said.tables.add(table=1, name="users", rows=7)
    return reply
