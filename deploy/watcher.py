"""Watches the shards: asks for their health, and looks for those that do not answer where the launcher has them now."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import zip_longest

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import RetryLater, RowloomError, StateLost, Unavailable, in_words
from ..proto.layout import Layout, ShardAddress
from .control.coordinator import Coordinator
from .control.effects import ServerCall
from .control.loss import loss_in_words
from .control.revival import moved, revive
from .control.state import ClusterState
from .launch.launcher import Launched, Launcher, ServerProcess
from .operate.status import AGAIN, GOOD, PULLS_ONLY, READABLE, stays_in_words
from .performer import Performer
from .standby.sighting import Sighting
from .standby.standbys import Standbys
from .standby.status import standby_status
from .storage import StateFile

log = logging.getLogger(__name__)
STANDBY_WATCH_S = 0.25  # the same, where they have standbys
WATCH_S = 1.0  # how often shards are asked for their health
ANSWER_S = 2.0  # what they get to answer
FIND_THREADS = 16


class Watcher:
    """Looks at shards, from a thread of its own and when it is asked.

    Args:
        coordinator: of the moment; another one after a restart.
        performer: asks, and says when nothing else runs.
        launcher: knows where servers are.
        file: where a layout goes that has changed.
        revives: shards that end are started again, because they have logs.
        standbys: of the moment; None: there are to be none.
        on_look: is told at each look how long the longest log is, in bytes, 0 without logs, and whether one has failed.
    """

    def __init__(
        self,
        coordinator: Callable[[], Coordinator],
        performer: Performer,
        launcher: Launcher,
        file: StateFile,
        *,
        revives: bool = False,
        on_look: Callable[[int, bool], None] = lambda log_bytes, failed: None,
        standbys: Callable[[], Standbys | None] = lambda: None,
    ) -> None:
        self._dead: frozenset[int] = (
            frozenset()
        )  # incarnations of servers that ended for good, at the last look
        self._away: dict[
            int, float
        ] = {}  # shards whose processes had ended and that do not serve again yet, since when
        self._stays: dict[int, str] = {}  # of those, why they could not be started again the last time
        self._mourned: set[int] = set()  # shards of whose loss the log has a line, until they serve again
        self._revives = revives
        self._on_look = on_look
        self._standbys = standbys
        self._coordinator = coordinator
        self._performer = performer
        self._launcher = launcher
        self._file = file
        self._finders = ThreadPoolExecutor(FIND_THREADS, thread_name_prefix="rowloom-find")
        self._said: dict[str, str] = {}  # what could not be done, and why, as the log has it
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rowloom-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. No error if it never did."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(2 * ANSWER_S)
        self._finders.shutdown(wait=False, cancel_futures=True)

    def _watch(self) -> None:
        due = time.monotonic() + WATCH_S
        while not self._ending.wait(WATCH_S if self._standbys() is None else STANDBY_WATCH_S):
            try:
                self._keep_standbys()
                if self._standbys() is None or time.monotonic() >= due:
                    self.look()
                    due = time.monotonic() + WATCH_S
            except Exception:  # the next look may do better
                if not self._ending.is_set():
                    log.exception("looking at the shards failed")

    def _keep_standbys(self) -> None:
        """Put standbys in the place of servers that are gone, and see to it that each shard has one."""
        standbys, coordinator = self._standbys(), self._coordinator()
        if standbys is None:
            return
        layout, known = coordinator.layout, coordinator.state.standbys
        seen: Sighting = self._performer.run(standbys.look())
        if not standbys.has_work(seen):
            return
        try:
            with self._performer.alone("keeping standbys", wait_s=0.0), self._looking():
                if coordinator.layout is layout and coordinator.state.standbys is known:
                    for index, why in seen.unfit.items():
                        log.warning("the standby of shard %d is given up: %s", index, why)
                    for index in self._performer.run(standbys.keep(seen)):
                        log.warning("the standby of shard %d has taken its place", index)
        except RetryLater:
            return
        except RowloomError as e:
            standbys.hindered = in_words(e)
            if not self._ending.is_set():
                self._tell("standbys are not as they should be", standbys.hindered)
        else:
            standbys.hindered = ""
            self._tell("standbys are not as they should be")

    @contextmanager
    def _looking(self) -> Generator[None]:
        """Look at servers and standbys meanwhile: starts are given up for a standby that can take a place."""
        over, standbys = threading.Event(), self._standbys()
        if standbys is None:
            yield
            return

        def look() -> None:
            while not over.wait(STANDBY_WATCH_S):
                with suppress(Exception):  # the next look may do better
                    self._performer.run(standbys.look())

        thread = threading.Thread(target=look, name="rowloom-look", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look(self) -> None:
        """Ask all shards for their health, find those that do not answer, and finish what was begun."""
        layout = self._coordinator().layout
        replies = self._performer.ask([_health_call(s) for s in layout.shards], ANSWER_S)
        silent = [s for s, r in zip(layout.shards, replies, strict=True) if health_of(r, s) == "unreachable"]
        for shard in silent:
            self._find(layout, shard.index)
        self._dead = self._ended(layout, silent)
        healths = {
            s.index: health_of(r, s, revives=self._revives)
            for s, r in zip(layout.shards, replies, strict=True)
        }
        self._away = {
            i: since for i, since in self._away.items() if healths.get(i) in ("unreachable", *AGAIN)
        }
        self._stays = {i: why for i, why in self._stays.items() if healths.get(i) == "unreachable"}
        self._tell_losses(layout, healths)
        if silent and self._revives:
            self._revive(layout)
        self._converge()
        said = [pb.HealthReply.FromString(r) for r in replies if not isinstance(r, RowloomError)]
        self._on_look(max((s.log_bytes for s in said), default=0), any(s.log_error for s in said))

    def waiting(self) -> list[str]:
        """What was begun and does not hold everywhere yet, each in words; also which shards are started anew."""
        now, stays = time.monotonic(), self._stays
        anew = [
            stays_in_words(index, now - since, stays[index])
            if index in stays
            else f"shard {index} is being started anew, since {now - since:.0f} s: its process had ended, and it reads "
            "its rows from its log"
            for index, since in sorted(self._away.items())
        ]
        return anew + self._coordinator().waiting()

    def dead_of(self, layout: pb.Layout) -> list[int]:
        """The shards of a layout whose processes had ended for good at the last look."""
        dead = self._dead
        return [shard.index for shard in layout.shards if shard.incarnation in dead]

    def _ended(self, layout: Layout, silent: Sequence[ShardAddress]) -> frozenset[int]:
        """Of shards that do not answer, the servers that nothing brings back, and no standby takes the place of."""
        state = self._coordinator().state
        if self._revives or state.layout is not layout:
            return frozenset()
        alone = [s for s in silent if state.standby_in_step(s.index) is None]
        looks = self._looks([state.keys[s.index] for s in alone])
        return frozenset(
            s.incarnation
            for s, look in zip(alone, looks, strict=True)
            if look.done() and look.result().state == "ended"
        )

    def _tell_losses(self, layout: Layout, healths: Mapping[int, str]) -> None:
        """Say once in the log which shards have lost their rows: else nobody hears of it until somebody asks."""
        state = self._coordinator().state
        if state.layout is not layout:  # what was seen is of another one: the next look tells
            return
        ended = {s.index for s in layout.shards if s.incarnation in self._dead}
        gone = ended | {index for index, health in healths.items() if health == "lost"}
        for index in sorted(gone - self._mourned):
            log.error("%s", loss_in_words(state, index, logs=self._revives, ended=index in ended))
        self._mourned = gone | {i for i in self._mourned if healths.get(i) not in GOOD}

    def _revive(self, layout: Layout) -> None:
        """Start shards again whose processes have ended."""
        coordinator = self._coordinator()
        looks = self._finders.map(self._launcher.look, coordinator.state.keys)
        state = coordinator.state
        ended = [
            index
            for index, process in enumerate(looks)
            if process.state == "ended" and (state.layout is not layout or not state.standby_in_step(index))
        ]
        if not ended:
            return
        now = time.monotonic()
        self._away = {**{index: now for index in ended}, **self._away}
        try:
            with self._performer.alone("starting shards again", wait_s=0.0), self._looking():
                if coordinator.layout is layout:
                    again = self._performer.run(revive(coordinator))
                    for index in again:
                        log.warning("shard %d had ended, and is started again: it reads its log", index)
        except RetryLater:
            return
        except RowloomError as e:
            which = ", ".join(f"shard {index}" for index in ended)
            self._stays = dict.fromkeys(ended, in_words(e))
            self._tell("shards that ended cannot be started again", f"{which}: {in_words(e)}")
        else:
            self._stays = {}
            self._tell("shards that ended cannot be started again")

    def _converge(self) -> None:
        coordinator = self._coordinator()
        if not coordinator.unfinished:
            return
        try:
            with self._performer.alone("finishing what was begun", wait_s=0.0):
                self._performer.run(coordinator.converge(0.0), polite=True)
                self._tell("what was begun is not finished")
        except RetryLater:
            return
        except RowloomError as e:
            self._tell("what was begun is not finished", in_words(e))

    def _tell(self, what: str, why: str = "") -> None:
        """Say in the log what cannot be done yet, and why; once, not at each look. Empty: it can be."""
        if why and why != self._said.get(what):
            log.warning("%s yet: %s", what, why)
        self._said[what] = why

    def _find(self, layout: Layout, index: int) -> None:
        """A shard that came back elsewhere came back empty: tell clients where, so that they hear StateLost soon."""
        coordinator = self._coordinator()
        found = next(iter(self.locate(coordinator.state.keys[index : index + 1])), None)
        if found is None:
            return
        try:
            with self._performer.alone("the search for a shard", wait_s=0.0):
                # Whatever ran since may have changed the layout: the next look will tell.
                if coordinator.layout is layout and moved(coordinator, index, found):
                    if self._revives or self._standbys() is not None:  # it has to be told which shard it is
                        coordinator.doubt()
                    try:
                        self._file.commit(coordinator.state, pause=self._ending.wait)
                    except RowloomError:
                        coordinator.state.layout = layout
                        raise
        except RetryLater:
            return
        except RowloomError as e:
            log.warning("shard %d has moved to %s: %s", index, found.address, e)

    def _looks(self, keys: Sequence[int]) -> list[Future[ServerProcess]]:
        """What the launcher knows of the processes of servers, as far as it says so in time."""
        looks = self._begin_looks(keys)
        wait(looks, ANSWER_S)
        return looks

    def _begin_looks(self, keys: Sequence[int]) -> list[Future[ServerProcess]]:
        """Ask the launcher for the processes of servers. Raises Unavailable: the cluster is being ended."""
        try:
            return [self._finders.submit(self._launcher.look, key) for key in keys]
        except RuntimeError:  # it was stopped
            raise Unavailable("the cluster is being ended") from None

    def locate(self, keys: Sequence[int]) -> list[Launched | None]:
        """Where the launcher has these servers now, asked for side by side; None for one that is gone."""
        return list(self._finders.map(self._launcher.find, keys))

    def statuses(self) -> list[pb.ShardStatus]:
        """What every shard says of itself now, all asked at once, and what the launcher knows of its process."""
        coordinator = self._coordinator()
        shards, keys = coordinator.layout.shards, coordinator.state.keys
        looks = self._begin_looks(keys[: len(shards)])
        ask = pb.StatisticsRequest().SerializeToString()
        calls = [_health_call(s) for s in shards] + [
            ServerCall(s.address, methods.STATISTICS, ask) for s in shards
        ]
        replies = self._performer.ask(calls, ANSWER_S)
        wait(looks, ANSWER_S)  # a launcher that hangs must not hide what the shards say
        healths, statistics = replies[: len(shards)], replies[len(shards) :]
        said = [
            _status(shard, health, figures, look.result() if look and look.done() else UNKNOWN, self._revives)
            for shard, health, figures, look in zip_longest(shards, healths, statistics, looks)
        ]
        keeper = self._standbys()
        stays = {**(keeper.stuck if keeper is not None else {}), **self._stays}
        for one in said:
            if one.health in ("dead", "unreachable"):
                one.stays_dead = stays.get(one.shard.index, "")
        self._add_standbys(coordinator.state, said)
        return said

    def _add_standbys(self, state: ClusterState, shards: Sequence[pb.ShardStatus]) -> None:
        """As they were at the last look, which was just now."""
        keeper, known = self._standbys(), [i for i in sorted(state.standbys) if i < len(shards)]
        if keeper is None or not known:
            return
        looks = self._looks([state.standbys[i].key for i in known])
        for index, look in zip(known, looks, strict=True):
            process = look.result() if look.done() else UNKNOWN
            said = standby_status(state, index, keeper.seen.healths.get(index), process)
            shards[index].standby.CopyFrom(said)


def _health_call(shard: ShardAddress) -> ServerCall:
    return ServerCall(shard.address, methods.HEALTH, pb.HealthRequest().SerializeToString())


def _status(
    shard: ShardAddress,
    health: bytes | RowloomError,
    figures: bytes | RowloomError,
    process: ServerProcess,
    revives: bool,
) -> pb.ShardStatus:
    silent = isinstance(figures, RowloomError)
    word = health_of(health, shard, process, revives=revives)
    if silent and word in READABLE:  # a sum would lack its rows, and nobody would see that
        word = "unreachable"
    told = pb.HealthReply() if isinstance(health, RowloomError) else pb.HealthReply.FromString(health)
    return pb.ShardStatus(
        shard=pb.ShardAddress(index=shard.index, address=shard.address, incarnation=shard.incarnation),
        node=process.node,
        pid=process.pid,
        health=word,
        lost=told.lost,
        unread=told.unread,
        passed_snapshot=told.passed_snapshot,
        passed_why=told.passed_why,
        statistics=None if silent else pb.StatisticsReply.FromString(figures),
    )


UNKNOWN = ServerProcess("unknown")


def health_of(
    reply: bytes | RowloomError,
    shard: ShardAddress,
    process: ServerProcess = UNKNOWN,
    *,
    revives: bool = False,
) -> str:
    """A shard's health in a word.

    Its own; "pulls only" if its log failed; "lost" if it came back empty. If it does not answer: "dead" if its process
    has ended, "stopped" if that stands still, else "unreachable". revives: it has a log, so that one that came back
    empty is "starting": it is about to read that.
    """
    if isinstance(reply, StateLost):
        return "lost"
    if isinstance(reply, RowloomError):
        return {"ended": "dead", "stopped": "stopped"}.get(process.state, "unreachable")
    said = pb.HealthReply.FromString(reply)
    if revives and said.state == "waiting":
        return "starting"
    other = shard.incarnation and said.incarnation != shard.incarnation
    if other or said.state == "waiting":
        return "lost"
    pulls_only = said.log_error and said.state in ("serving", "moving")
    return PULLS_ONLY if pulls_only else said.state or "unreachable"
