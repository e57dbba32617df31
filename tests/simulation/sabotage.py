"""Builds that are broken on purpose, each as one change of one method. The suite must notice every one of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from simulation import cluster
from simulation.histories import History
from simulation.logs import NodeLog

# What a change of the sources may move: everything that is broken below is named here.
from rowloom.client.calls import operations
from rowloom.client.calls.assembly import Arrived as Reassembly
from rowloom.client.calls.pusher import Numbers, Pusher
from rowloom.client.calls.requests import PushRequest
from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Commit
from rowloom.deploy.control.hold import Hold
from rowloom.deploy.control.reshard import Reshard
from rowloom.proto import codec
from rowloom.proto.errors import RowloomError
from rowloom.proto.layout import Layout
from rowloom.server import host as host_module
from rowloom.server import shard as shard_module
from rowloom.server.call import Answer
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import size_of
from rowloom.server.durable.replay import Replay
from rowloom.server.holder import Holder, Incoming
from rowloom.server.host import Host
from rowloom.server.ledger import Ledger, Window
from rowloom.server.moving import giving, outgoing, receive
from rowloom.server.rows.cut import Cut as RowsCut
from rowloom.server.rows.rows import Rows
from rowloom.server.shard import Shard
from rowloom.server.table import ShardTable

REASSEMBLE = "spread"  # Reassembly's: places of the rows in the reply -> rows in the caller's order
LATEST = "latest"  # operations': of the rows to assign, the last of each id
UNTIL_CAUGHT = 600  # seeds


class Patches(Protocol):
    """pytest's monkeypatch."""

    def setattr(self, target: Any, name: str, value: Any) -> None: ...


def no_duplicate_window(patch: Patches) -> None:
    """A shard does not look whether it has applied a part."""
    patch.setattr(Ledger, "has", lambda *_: False)


def ledger_stays_behind(patch: Patches) -> None:
    """What was applied is forgotten when rows move."""
    patch.setattr(Ledger, "merge", lambda *_: None)


def forgotten_clients_are_new(patch: Patches) -> None:
    """A client that a shard has forgotten is taken for one that comes for the first time."""
    patch.setattr(Ledger, "_check_new", lambda *_: None)


def calls_for_other_clusters_are_taken(patch: Patches) -> None:
    """The coordinator does what clients of another cluster ask for."""
    patch.setattr(Coordinator, "check_cluster", lambda *_: None)


def low_water_is_ignored(patch: Patches) -> None:
    """Parts that their client gave up are applied when they come late."""
    patch.setattr(Window, "has", lambda self, seq: seq in self.applied)


def applies_before_it_checks(patch: Patches) -> None:
    """A shard writes what it can of a push, then finds that the push is wrong."""
    checked = Shard._checked

    def hasty(self, request):
        for number, ids, block in request.tables:
            if request.kind == codec.GRADIENTS and request.wire == codec.FLOAT32 and block.bags is None:
                values = np.array(block.data, np.float32).reshape(len(ids), -1)
                if not np.isfinite(values).all():
                    self.tables[number].push(ids[:-1], values[:-1], 0)
        return checked(self, request)

    patch.setattr(Shard, "_checked", hasty)


def applies_while_rows_move(patch: Patches) -> None:
    """A shard that is frozen goes on."""

    def restless(self, call):
        return Answer([codec.encode_push_reply(self._serving().push(codec.Push.decode(call.data)))])

    patch.setattr(Host, "_push", restless)


def part_names_repeat(patch: Patches) -> None:
    """Every other part gets the number of the one before it."""

    def next_number(self):
        self.last += 1
        return max(1, self.last - self.last % 2)

    patch.setattr(Numbers, "next", next_number)


def numbers_stay_open(patch: Patches) -> None:
    """A call that is cut never gives its numbers back."""
    patch.setattr(Pusher, "end_call", lambda self: None)


def split_forgets_names(patch: Patches) -> None:
    """Pieces of a part that went to an old layout do not say under what names it went."""
    split = PushRequest.split

    def forgetful(self, layout):
        for piece in split(self, layout):
            piece.names = []
            yield piece

    patch.setattr(PushRequest, "split", forgetful)


def retry_has_a_new_name(patch: Patches) -> None:
    """A part that is sent again is a new part."""
    name = Pusher.name

    def anew(self, part, layout):
        part.names = []
        return name(self, part, layout)

    patch.setattr(Pusher, "name", anew)


def failed_commit_is_rolled_back(patch: Patches) -> None:
    """A commit that fails is taken for one that stored nothing."""

    def hasty(self, state):
        state = self._numbered(state)
        yield Commit(state)
        self.state = state

    patch.setattr(Coordinator, "commit", hasty)


def adopted_before_the_commit(patch: Patches) -> None:
    """Servers take up the new layout before it is stored."""
    commit = Coordinator.commit

    def eager(self, state):
        old = self.state
        if old.layout and state.layout and state.layout.epoch > old.layout.epoch:
            self.state = replace(old, layout=state.layout)
            yield from self.adopt(1.0)
            self.state = old
        yield from commit(self, state)

    patch.setattr(Coordinator, "commit", eager)


def shown_before_the_commit(patch: Patches) -> None:
    """Clients are told a layout that may never be stored."""
    commit = Coordinator.commit

    def eager(self, state):
        old, self.state = self.state, state
        try:
            yield from commit(self, state)
        except RowloomError:
            self.state = old
            raise

    patch.setattr(Coordinator, "commit", eager)


def recovery_forgets_what_was_begun(patch: Patches) -> None:
    """A new coordinator knows the layout and the tables, and nothing of what was half done."""
    take_up = cluster.take_up

    def forgetful(coordinator, found):
        coordinator.state = replace(coordinator.state, making={}, dropping=[], changing=[], surplus=[])
        return (yield from take_up(coordinator, found))

    patch.setattr(cluster, "take_up", forgetful)


def failed_scaling_stays_frozen(patch: Patches) -> None:
    """Shards that did not hear of the end of a scaling at once are left as they are."""

    def careless(self, cause):
        self._coordinator._doubtful = set()
        yield from self._coordinator.stop_surplus()

    patch.setattr(Reshard, "_roll_back", careless)


def rows_come_back_as_others(patch: Patches) -> None:
    """Reassembly of a pull is shifted by one."""
    spread = getattr(Reassembly, REASSEMBLE)

    def shifted(self, inverse: np.ndarray) -> np.ndarray:
        return spread(self, (inverse + 1) % max(1, len(self)))

    patch.setattr(Reassembly, REASSEMBLE, shifted)


def generations_are_counted_after_the_read(patch: Patches) -> None:
    """A row that changes while a pass is read is in no later one."""
    read, begin = outgoing.read_pass, Shard.begin_pass

    def early(self):
        for table in self.tables.values():
            table.track(self.generation)
        return self.generation + 1

    def late(shard, request, **more):
        block = read(shard, request, **more)
        if block.head.done:
            begin(shard)
        return block

    patch.setattr(Shard, "begin_pass", early)
    patch.setattr(giving, "read_pass", late)


def the_last_pass_is_left_out(patch: Patches) -> None:
    """When pushes wait, the ledger moves, and no row any more."""
    read = outgoing.read_pass

    def hasty(shard, request, *, frozen, space):
        if frozen and not request.generation and request.since:
            request.at = len(request.tables)
        return read(shard, request, frozen=frozen, space=space)

    patch.setattr(giving, "read_pass", hasty)


def the_freeze_is_left_out(patch: Patches) -> None:
    """Pushes go on while the last rows move."""
    patch.setattr(Holder, "waits", lambda self, push: False)


def passes_read_what_is_new_only(patch: Patches) -> None:
    """Rows that change are not marked, only those that come into being."""
    patch.setattr(Rows, "touch", lambda *_: None)


def steps_count_twice(patch: Patches) -> None:
    """A push that comes in two parts, or twice, counts two steps."""
    patch.setattr(Ledger, "step", lambda self, client, epoch, push, table, count: count() and count())


def steps_are_lost_in_a_move(patch: Patches) -> None:
    """Tables begin to count steps anew where they move to."""
    finish = receive.Receive._finish

    def forgetful(self):
        finish(self)
        for table in self.shard.tables.values():
            table.step = 0

    patch.setattr(receive.Receive, "_finish", forgetful)


def int8_loses_its_scales(patch: Patches) -> None:
    """The scales of int8 rows do not travel."""
    from_wire = codec.from_wire

    def plain(block, wire):
        if wire == codec.INT8:
            block = replace(block, scales=np.ones_like(block.scales))
        return from_wire(block, wire)

    patch.setattr(shard_module, "from_wire", plain)


def first_assigned_counts(patch: Patches) -> None:
    """Of an id that stands twice in an assign, the first row counts."""

    def earliest(rows, order, begins):
        return rows[order[begins[:-1]]]

    patch.setattr(operations, LATEST, earliest)


def renorm_is_forgotten(patch: Patches) -> None:
    """Rows that are too long stay so."""
    patch.setattr(ShardTable, "to_renorm", lambda *_: lambda: None)


def late_steps_are_taken(patch: Patches) -> None:
    """Steps of the coordinator that were held up on their way undo later ones."""
    patch.setattr(Host, "take_turn", lambda self, cluster_id, turn: None)


def acks_before_the_record_is_written(patch: Patches) -> None:
    """What is noted in the log may be acknowledged."""
    patch.setattr(Log, "ackable", property(lambda self: self.end))


def acks_before_the_sync(patch: Patches) -> None:
    """With `disk`, what is written may be acknowledged."""
    ackable = Log.ackable.fget

    def early(self):
        return self.written_prefix if self.mode is Mode.DISK else ackable(self)

    patch.setattr(Log, "ackable", property(early))


def syncs_what_is_written_meanwhile(patch: Patches) -> None:
    """When a sync ends, all that is written by then is taken for synced."""
    synced = Log.synced
    patch.setattr(Log, "synced", lambda self, upto: synced(self, self.written_prefix))


def duplicates_are_acked_at_once(patch: Patches) -> None:
    """A push that comes again is acknowledged, although its first copy may not be safe."""
    kept = Host._kept

    def hasty(self, kind, data, shard, push, duplicate):
        after, fed = kept(self, kind, data, shard, push, duplicate)
        return 0 if duplicate else after, fed

    patch.setattr(Host, "_kept", hasty)


def steps_are_answered_at_once(patch: Patches) -> None:
    """The rows of a step are sent before its push is safe."""
    step = Host._step

    def hasty(self, call):
        return replace(step(self, call), after=0)

    patch.setattr(Host, "_step", hasty)


def changes_of_tables_are_acked_at_once(patch: Patches) -> None:
    """The coordinator hears of a table, or a rate, that is not safe yet."""
    patch.setattr(host_module, "_NOTED", frozenset())


def records_are_acked_one_by_one(patch: Patches) -> None:
    """A record that is written is acknowledged, although one before it is not."""

    def written(self, ticket):
        self.written_prefix = max(self.written_prefix, ticket.end)

    patch.setattr(Log, "written", written)


def records_are_ordered_when_they_are_written(patch: Patches) -> None:
    """A record gets its place in the log when a thread comes to write it, not when its push is applied."""

    def note(self, kind, payload, rows_after=0, fold=0):
        self._noted.append(((kind, payload, rows_after, fold), payload))
        return self.end + size_of(len(payload))

    def write(self, noted):
        for (kind, payload, rows_after, fold), _ in noted:
            self.scribe.write(self.scribe.append(kind, len(payload), rows_after, fold), [payload])

    patch.setattr(NodeLog, "note", note)
    patch.setattr(NodeLog, "write", write)


def replay_leaves_the_ledger_empty(patch: Patches) -> None:
    """A shard that was read from its log does not know which pushes it has."""
    finish = Replay.finish

    def forgetful(self):
        finish(self)
        self._shard.ledger = Ledger(self._shard.ledger.max_clients)

    patch.setattr(Replay, "finish", forgetful)


def received_counts_before_it_is_safe(patch: Patches) -> None:
    """A new layout is committed when its shards have their rows in memory."""
    patch.setattr(Incoming, "done", property(lambda self: self.receive.done))


def old_log_goes_before_the_commit(patch: Patches) -> None:
    """A shard drops the log of its epoch as soon as it has received its rows of the next."""
    ended = Host.ended

    def eager(self, incoming, error=""):
        ended(self, incoming, error)
        if self.incoming is incoming and not error:
            self._replace_journal(None)

    patch.setattr(Host, "ended", eager)


def damage_is_taken_for_the_end(patch: Patches) -> None:
    """A log ends at the first bad record, whatever the prefix of later ones says."""

    def careless(self, bad, last, why, head):
        self.dropped = 1

    patch.setattr(Reading, "_judge", careless)


def cuts_without_a_hold(patch: Patches) -> None:
    """Shards are frozen and cut, whatever pushes are on their way."""

    def run(self):
        self.since_s = self._coordinator.clock()
        yield from self._coordinator.freeze(10.0)

    patch.setattr(Hold, "run", run)


def cuts_show_what_comes_later(patch: Patches) -> None:
    """Rows that change after a cut are not copied aside before."""
    patch.setattr(RowsCut, "save", lambda *_: None)


def ids_stay_with_the_old_strategy(patch: Patches) -> None:
    """Clients send ids where the strategy that they know of a table sent them, whatever the layout says."""
    patch.setattr(Layout, "spec_of", lambda self, entry: entry.spec)


def rows_move_by_the_old_strategy(patch: Patches) -> None:
    """Shards give rows to whom they would go if ids were dealt as they are."""
    patch.setattr(outgoing, "dealt_in", lambda _: {})


BUILDS: list[Callable[[Patches], None]] = [
    no_duplicate_window,
    ledger_stays_behind,
    calls_for_other_clusters_are_taken,
    forgotten_clients_are_new,
    low_water_is_ignored,
    applies_before_it_checks,
    applies_while_rows_move,
    part_names_repeat,
    numbers_stay_open,
    split_forgets_names,
    retry_has_a_new_name,
    failed_commit_is_rolled_back,
    adopted_before_the_commit,
    shown_before_the_commit,
    recovery_forgets_what_was_begun,
    failed_scaling_stays_frozen,
    rows_come_back_as_others,
    the_last_pass_is_left_out,
    the_freeze_is_left_out,
    passes_read_what_is_new_only,
    ids_stay_with_the_old_strategy,
    steps_count_twice,
    steps_are_lost_in_a_move,
    int8_loses_its_scales,
    first_assigned_counts,
    renorm_is_forgotten,
    late_steps_are_taken,
    cuts_without_a_hold,
    cuts_show_what_comes_later,
]
# Noticed only where shards have logs.
LOGGED: list[Callable[[Patches], None]] = [
    acks_before_the_record_is_written,
    acks_before_the_sync,
    syncs_what_is_written_meanwhile,
    duplicates_are_acked_at_once,
    steps_are_answered_at_once,
    changes_of_tables_are_acked_at_once,
    records_are_acked_one_by_one,
    records_are_ordered_when_they_are_written,
    replay_leaves_the_ledger_empty,
    received_counts_before_it_is_safe,
    old_log_goes_before_the_commit,
    damage_is_taken_for_the_end,
]


def seeds_until_caught(build: Callable[[Patches], None], first: int, most: int = UNTIL_CAUGHT) -> int:
    """How many seeds from `first` on it takes until one fails; `most` + 1: none of that many did."""
    mode = Mode.DISK if build in LOGGED else None
    for seed in range(first, first + most):
        try:
            History(seed, mode=mode).finish()
        except Exception:
            return seed - first + 1
    return most + 1
