"""Standbys: started, named to their primaries, watched, and put in their place when that is gone.

    launch ─▶ STORE it ─▶ tell the primary, and it ─▶ filled ─▶ STORE in step ─▶ primary gone: STORE the layout ─▶ adopt
                                                           └─ gone, failed: STORE that it is out ─▶ tell the primary

Why it is so. What must hold: at any moment the stored state says of a standby that it is in step only if the primary
acknowledges nothing without it. The primary begins to wait before this is stored, and waits until the opposite is. So
whoever reads the state, also a coordinator that has just started, may put a standby that is in step in its place.
The layout keeps its epoch, because the shard is the same one with every row that it acknowledged, as when a shard is
read from its log (`revival.py`). The old server may be alive: `server/standby/feed.py` says why it does not serve then.
With logs it is ended before the standby is told, which takes the log of the shard (`server/running/succeeding.py`): one
that lives has its lock. The log has all that was acknowledged, so a standby that does not answer is no reason to wait.
A layout of another epoch ends all standbys. Until it is committed they follow as ever: should a server end while rows
move, the move rolls back, and its standby takes its place. From the commit on they are of an epoch that is over, which
is all that says so; new ones are made.
Where there are to be none any more (`changing.py`), the same steps end them, but not before their primary has answered:
until then a standby may be all that there is. Who is told that it has none may miss it, and the coordinator may end
before it tells it; so a cluster that had standbys is looked at for ever (`kept`), and every new coordinator tells all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Sequence

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError, in_words
from ..control.coordinator import Coordinator
from ..control.effects import Calls, Program, ServerCall
from ..control.starting import launch
from ..control.state import Standby
from ..control.surplus import expected_surplus
from ..launch.launcher import ServerProcess
from .looking import health_in, processes_of
from .places import put_empty, take_place
from .rules import StandbyRules
from .sighting import Sighting
from .told import Told

ASK_S = 1.0  # what a server gets to answer here
AGAIN_S = 5.0  # until one is asked for again for which there was no room: nothing else can change meanwhile
IN_STEP, FAILED = "in step", "failed"  # as in HealthReply, and in StandbyStatus


class Standbys:
    """Keeps a standby for each shard.

    Args:
        coordinator: of the cluster.
        rules: how.
        wanted: whether there are to be any; else those that there are go.

    Attributes:
        rules, wanted: they may change, when that is stored.
        seen: at the last look.
        hindered: in words, why the last `keep` could not do all; empty if it could.
        stuck: by shard whose standby could not take its place when it was to, why.
    """

    def __init__(self, coordinator: Coordinator, rules: StandbyRules, *, wanted: bool = True) -> None:
        self._coordinator, self.rules, self.wanted = coordinator, rules, wanted
        self.seen, self.hindered, self.stuck = Sighting(), "", dict[int, str]()
        self._told: dict[int, Told | None] = {}  # by shard; None: it may have heard what is no more
        self._tended = self.seen
        coordinator.tend = self.tend
        self._silent: dict[int, float] = {}  # by incarnation, since when it does not answer
        # Shards whose standby could not be started: until when it is not tried again, and why it could not be.
        self._later: dict[int, tuple[float, str]] = {}

    @property
    def kept(self) -> bool:
        """Whether there is anything to look at: there are to be standbys, or there were some in this cluster's life.

        It stays so: a shard may have yet to hear that its standby is gone, for which it would wait for ever.
        """
        return self.wanted or self._coordinator.state.replicas is not None

    def said(self) -> list[str]:
        """Of each shard that may acknowledge what only it has, and of what is yet to change, in words."""
        coordinator, words = self._coordinator, list[str]()
        if not self.wanted:
            return self._said_of_the_last()
        for shard in coordinator.layout.shards:
            index, health = shard.index, self.seen.healths.get(shard.index)
            if index in self.stuck:
                words.append(f"calls to shard {index} wait: {self.stuck[index]}")
            elif self._is_lost(index):
                continue  # its shard's status says that it is dead, and what can be done
            elif index not in coordinator.state.standbys:
                _, why = self._later.get(index, (0.0, ""))
                words.append(f"shard {index} has no standby yet" + (f": {why}" if why else ""))
            elif index in self.seen.unfit and self.hindered:
                why = f"its standby is none any more ({self.seen.unfit[index]}), and that cannot be stored"
                words.append(f"calls to shard {index} wait: {why}: {self.hindered}")
            elif coordinator.state.standby_in_step(index) is None:
                rows = f", {health.standby_rows} rows are there" if health is not None else ""
                why = f": {health.standby_error}" if health is not None and health.standby_error else ""
                words.append(f"the standby of shard {index} is being filled{rows}{why}")
            elif self._untold(index):
                mode = "sync" if self.rules.waits else "async"
                words.append(f"shard {index} has yet to hear that `standby.mode` is {mode}")
        return words

    def _is_lost(self, index: int) -> bool:
        """Whether a shard's server has ended and nobody has its rows: a standby could not be filled."""
        return index in self.seen.dead and not self._coordinator.comes_back(index)

    def _said_of_the_last(self) -> list[str]:
        """In words, what is left of standbys where there are to be none."""
        coordinator = self._coordinator
        left = coordinator.state.standbys
        words = [f"the standby of shard {index} has yet to be ended" for index in sorted(left)]
        if self.kept and coordinator.state.layout is not None:
            words += [
                f"shard {index} has yet to hear that it has no standby any more, and pushes to it may wait until then"
                for index in range(coordinator.layout.n)
                if index not in left and index not in self.seen.alone and self._untold(index)
            ]
        return words

    # ------------------------------------------------------------------------------------------------------- looking

    def look(self) -> Program:
        """Ask all shards and standbys how they are. What runs meanwhile hears who is given up. Returns the Sighting."""
        coordinator = self._coordinator
        layout, state = coordinator.layout, coordinator.state
        standbys = dict(state.standbys)
        ask = pb.HealthRequest().SerializeToString()
        addresses = [s.address for s in layout.shards] + [one.address for one in standbys.values()]
        calls = [ServerCall(address, methods.HEALTH, ask) for address in addresses]
        answers = [health_in(outcome) for outcome in (yield Calls(calls, ASK_S))]
        keys = [*state.keys, *(one.key for one in standbys.values())]
        incarnations = [
            *(s.incarnation for s in layout.shards),
            *(one.incarnation for one in standbys.values()),
        ]
        processes = yield from processes_of(keys, incarnations, answers)
        gone: dict[int, bool] = {}
        empty: dict[int, int] = {}
        alone: set[int] = set()  # shards whose server does not answer: a standby is not blamed for it
        dead: set[int] = set()  # of these, whose process has ended
        for shard, health, process in zip(layout.shards, answers, processes, strict=False):
            if health is not None and health.incarnation == shard.incarnation:
                self._silent.pop(shard.incarnation, None)
                continue
            alone.add(shard.index)
            ended = process.state == "ended"
            if ended:
                dead.add(shard.index)
            if ended or health is not None or self._is_silent(shard.incarnation):
                gone[shard.index] = ended and process.sure
            if health is not None and health.state == "waiting":
                empty[shard.index] = health.incarnation
        unfit: dict[int, str] = {}
        healths: dict[int, pb.HealthReply] = {}
        for (index, one), health, process in zip(
            standbys.items(), answers[layout.n :], processes[layout.n :], strict=True
        ):
            if health is not None:
                healths[index] = health
            why = self._unfit(index, one, health, process, index in alone, index in dead)
            if why:
                unfit[index] = why
        known = {s.incarnation for s in layout.shards} | {one.incarnation for one in standbys.values()}
        # Whoever changes standbys looks, too, at the same time.
        self._silent = {one: since for one, since in list(self._silent.items()) if one in known}
        ended = [process.state == "ended" and process.sure for process in processes[layout.n :]]
        over = {index for index, is_over in zip(standbys, ended, strict=True) if is_over}
        self.seen = Sighting(gone, empty, healths, unfit, alone, dead, over)
        waited_for: list[int] = []
        if coordinator.layout is layout:  # what runs meanwhile may have changed it
            waited_for = [i for i in gone if i not in empty and self._can_take_over(i, self.seen)]
        self.stuck = {index: why for index, why in self.stuck.items() if index in waited_for}
        coordinator.given_up = frozenset((layout.epoch, layout.shards[i].incarnation) for i in waited_for)
        return self.seen

    def is_suspected(self, incarnation: int) -> bool:
        """Whether a server did not answer the last time."""
        return incarnation in self._silent

    def _is_silent(self, incarnation: int) -> bool:
        """Whether a server that does not answer has not done so for too long."""
        now = self._coordinator.clock()
        return now >= self._silent.setdefault(incarnation, now) + self.rules.after_s

    def _unfit(
        self,
        index: int,
        one: Standby,
        health: pb.HealthReply | None,
        process: ServerProcess,
        alone: bool,
        dead: bool,
    ) -> str:
        """Why a standby is none any more; empty if it is one. alone, dead: its shard, as in `look`."""
        layout = self._coordinator.layout
        if index >= layout.n or (one.primary, one.epoch) != (layout.shards[index].incarnation, layout.epoch):
            return "its shard has another server"
        if process.state == "ended":
            return "its process has ended"
        if dead and self._coordinator.revives and not one.in_step:
            return "its shard's server has ended before it had all, and is started again from the log"
        if health is None:
            # Where its primary does not answer either, it is all that there is, but for a log.
            given_up = self._is_silent(one.incarnation) and (not alone or self._coordinator.revives)
            return "it does not answer" if given_up else ""
        self._silent.pop(one.incarnation, None)
        if health.incarnation != one.incarnation:
            return "it has started anew"
        if health.standby == FAILED:
            return health.standby_error
        if one.in_step and not alone and health.standby_unheard_s > self.rules.after_s:
            return f"it has not heard of its primary for {health.standby_unheard_s:.1f} s"
        return ""

    def has_work(self, seen: Sighting) -> bool:
        """Whether `keep` would change something."""
        coordinator = self._coordinator
        standbys, shards = coordinator.state.standbys, coordinator.layout.shards
        return bool(
            seen.unfit
            or any(self._can_take_over(index, seen) for index in seen.gone)
            or seen.empty
            or (self.wanted and len(standbys) < len(shards))
            or (not self.wanted and standbys)
            or any(self._untold(index) for index in range(len(shards)))
            or any(not one.in_step for one in standbys.values())
        )

    def _can_take_over(self, index: int, seen: Sighting) -> bool:
        """Whether a shard's standby is in step, as is stored, and has just said so: the old server may be alive."""
        standby, health = self._coordinator.state.standby_in_step(index), seen.healths.get(index)
        if standby is None or health is None:
            return False
        return (health.incarnation, health.standby) == (standby.incarnation, IN_STEP)

    def _untold(self, index: int) -> bool:
        """Whether a shard's server has yet to hear who its standby is."""
        wanted = self._wanted_of(index)
        return self._told.get(index) != wanted and (wanted.standby != 0 or index in self._told or self.kept)

    def _wanted_of(self, index: int) -> Told:
        server = self._coordinator.layout.shards[index].incarnation
        standby = self._coordinator.state.standbys.get(index)
        if standby is None:
            return Told(server, 0, False, self.wanted)
        return Told(server, standby.incarnation, self.rules.waits, self.wanted)

    # ------------------------------------------------------------------------------------------------------- keeping

    def keep(self, seen: Sighting) -> Program:
        """Put standbys in the place of servers that are gone; else one step for every shard towards one in step.

        Returns the shards that have another server now.

        Raises:
            Unavailable: no server could be started; what can be done without is done.
        """
        with expected_surplus(self._coordinator):
            return (yield from self._keep(seen))

    def _keep(self, seen: Sighting) -> Program:
        taken = yield from self._take_over(seen)
        for index, incarnation in seen.empty.items():
            if index not in taken and self._coordinator.state.standby_in_step(index) is None:
                yield from put_empty(self._coordinator, index, incarnation)
        if taken:  # what else was seen is old: the next look is soon
            return taken
        yield from self._drop(self._over(seen))
        failed: RowloomError | None = None
        try:
            if self.wanted:
                yield from self._launch(seen)
        except RowloomError as e:
            failed = e
        yield from self._tell()
        yield from self._note_in_step(seen)
        if failed is not None:
            raise failed
        return taken

    def tend(self) -> Program:
        """What does not wait until a program that takes long has ended; after each look. It starts and ends nothing.

        Pushes wait for a standby that follows no more until it is stored that it is out. One that has all takes a place
        only when that is stored.
        """
        if self.seen is self._tended:
            return
        seen = self._tended = self.seen
        if self.wanted:
            yield from self._let_go(seen.unfit)
        yield from self._tell_primaries()
        yield from self._note_in_step(seen)

    def take_up(self) -> Program:
        """As a coordinator begins: who is in step takes its place, and who is none any more is in nobody's way."""
        seen = yield from self.look()
        yield from self._take_over(seen)
        yield from self._drop(seen.unfit)

    def settle(self) -> Program:
        """What can be done at once after `rules` or `wanted` have changed; `keep` does the rest."""
        seen = yield from self.look()
        yield from self._drop(self._over(seen))
        yield from self._tell()

    def leave(self, indices: Collection[int]) -> Program:
        """The standbys of these shards end, as their nodes are to be left, or for better ones; `keep` makes others."""
        with expected_surplus(self._coordinator):
            yield from self.look()
            yield from self._drop(indices)

    def _over(self, seen: Sighting) -> Collection[int]:
        """The standbys that go: those that are none any more; where there are to be none, the others too.

        But not one whose server does not answer: it may be all that there is of the shard's rows. It takes the
        place, or the server is back.
        """
        if self.wanted:
            return seen.unfit

        def may_take_over(index: int) -> bool:
            health = seen.healths.get(index)
            return index not in seen.gone or health is None or health.standby == IN_STEP

        standbys = self._coordinator.state.standbys
        return [i for i in standbys if i in seen.unfit or i not in seen.alone or not may_take_over(i)]

    def _launch(self, seen: Sighting) -> Program:
        coordinator = self._coordinator
        layout = coordinator.layout
        # Who is started again from its log is another server then, and none has followed it. One that does
        # not answer, as one that is dead for good, has nothing to fill a standby with.
        anew = seen.gone if coordinator.revives else ()
        there = (*coordinator.state.standbys, *anew, *seen.alone)
        missing = [i for i in range(layout.n) if i not in there]
        if anew and not all(coordinator.state.standby_in_step(index) for index in anew):
            missing = []  # what room there is, is for shards
        now = coordinator.clock()
        self._later = {i: told for i, told in self._later.items() if i in missing}
        together = [i for i in missing if i not in self._later]
        failed: RowloomError | None = None
        # Where there is no room for all, some may have room by themselves.
        for some in [together, *([i] for i, (until, _) in self._later.items() if until <= now)]:
            try:
                yield from self._start(some)
            except RowloomError as e:
                failed = failed or e
                later = now if len(some) > 1 else coordinator.clock() + AGAIN_S
                self._later.update(dict.fromkeys(some, (later, in_words(e))))
        if failed is not None:
            raise failed

    def _start(self, missing: Sequence[int]) -> Program:
        """A standby for each of these shards."""
        coordinator = self._coordinator
        layout = coordinator.layout
        if not missing:
            return
        apart = [coordinator.state.keys[index] for index in missing]
        keys, launched = yield from launch(coordinator, len(missing), apart)
        fresh = {
            index: Standby(
                key, server.address, server.incarnation, layout.shards[index].incarnation, layout.epoch
            )
            for index, key, server in zip(missing, keys, launched, strict=True)
        }
        state = coordinator.state
        surplus = [key for key in state.surplus if key not in keys]
        yield from coordinator.commit(
            dataclasses.replace(state, standbys={**state.standbys, **fresh}, surplus=surplus)
        )

    def _tell_primaries(self) -> Program:
        """Each one who its standby is."""
        coordinator, rules = self._coordinator, self.rules
        untold = [index for index in range(coordinator.layout.n) if self._untold(index)]
        layout = coordinator.layout
        calls: list[ServerCall] = []
        for index in untold:
            primary = pb.SetStandbyRequest(
                cluster_id=layout.cluster_id,
                epoch=layout.epoch,
                turn=coordinator.turn(),
                standby=self._wanted_of(index).standby,
                waits=rules.waits,
                lease_s=rules.lease_s,
                replicated=self.wanted,
            )
            address = layout.shards[index].address
            calls.append(ServerCall(address, methods.SET_STANDBY, primary.SerializeToString()))
        outcomes: Sequence[bytes | RowloomError] = (yield Calls(calls, ASK_S)) if calls else ()
        for index, outcome in zip(untold, outcomes, strict=True):
            if not isinstance(outcome, RowloomError):
                self._told[index] = self._wanted_of(index)

    def _tell(self) -> Program:
        """Each primary who its standby is; then each standby that is not in step yet."""
        yield from self._tell_primaries()
        coordinator, rules = self._coordinator, self.rules
        layout = coordinator.layout
        calls: list[ServerCall] = []
        for index, one in coordinator.state.standbys.items():
            if not one.in_step and not self._untold(index):
                request = pb.StandByRequest(
                    layout=layout.to_message(), index=index, turn=coordinator.turn(), lease_s=rules.lease_s
                )
                calls.append(ServerCall(one.address, methods.STAND_BY, request.SerializeToString()))
        if calls:
            yield Calls(calls, ASK_S)

    def _note_in_step(self, seen: Sighting) -> Program:
        """Store which standbys have all now."""
        coordinator = self._coordinator
        state = coordinator.state
        ready = {
            index: dataclasses.replace(one, in_step=True)
            for index, one in state.standbys.items()
            if not one.in_step
            and (health := seen.healths.get(index)) is not None
            and (health.incarnation, health.standby) == (one.incarnation, IN_STEP)
        }
        if ready:
            yield from coordinator.commit(dataclasses.replace(state, standbys={**state.standbys, **ready}))

    def _drop(self, indices: Collection[int]) -> Program:
        """These shards' standbys take nobody's place any more, and end."""
        if (yield from self._let_go(indices)):
            with contextlib.suppress(RowloomError):  # they stay surplus
                yield from self._coordinator.stop_surplus()

    def _let_go(self, indices: Collection[int]) -> Program:
        """Store that these standbys are none any more, then tell their primaries. Returns whether there were any."""
        coordinator, state = self._coordinator, self._coordinator.state
        dropped = [one for index, one in state.standbys.items() if index in indices]
        if not dropped:
            return False
        left = {index: one for index, one in state.standbys.items() if index not in indices}
        surplus = [*state.surplus, *(one.key for one in dropped)]
        yield from coordinator.commit(dataclasses.replace(state, standbys=left, surplus=surplus))
        yield from self._release([i for i in sorted(indices) if i < coordinator.layout.n])
        return True

    def _release(self, indices: Sequence[int]) -> Program:
        """Tell primaries that they have no standby. Those that do not hear of it are told by `keep`."""
        coordinator, layout = self._coordinator, self._coordinator.layout
        calls: list[ServerCall] = []
        for index in indices:
            request = pb.SetStandbyRequest(
                cluster_id=layout.cluster_id,
                epoch=layout.epoch,
                turn=coordinator.turn(),
                replicated=self.wanted,
                ended=index in self.seen.over,
            )
            calls.append(
                ServerCall(layout.shards[index].address, methods.SET_STANDBY, request.SerializeToString())
            )
        outcomes = yield Calls(calls, ASK_S)
        for index, outcome in zip(indices, outcomes, strict=True):
            if isinstance(outcome, RowloomError):
                self._told[index] = None  # `keep` tells it
            else:
                self._told[index] = self._wanted_of(index)

    # ----------------------------------------------------------------------------------------------------- taking over

    def _take_over(self, seen: Sighting) -> Program:
        """Put standbys in the place of servers that are gone, all at once: a node takes several. Returns the shards.

        Where one is not known to have ended for certain, its standby waits until it serves no more.
        """
        coordinator = self._coordinator
        taken = [index for index in seen.gone if self._can_take_over(index, seen)]
        if not taken:
            return taken
        try:
            for index in taken:
                yield from take_place(coordinator, index, ended=seen.gone[index])
        except RowloomError as e:
            self.stuck = dict.fromkeys(taken, f"its standby cannot take its place: {in_words(e)}")
            raise
        if coordinator.revives:  # the standby serves when it has the log
            with contextlib.suppress(RowloomError):
                yield from coordinator.stop_surplus()
        wait = not coordinator.revives and not all(seen.gone[index] for index in taken)
        yield from coordinator.adopt(self.rules.lease_s if wait else 0.0)
        with contextlib.suppress(RowloomError):  # it stays surplus
            yield from coordinator.stop_surplus()
        return taken
