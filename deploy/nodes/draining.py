"""Drains and upgrades: which shards go over to other servers, and when the coordinator itself goes elsewhere.

A drain that somebody asks for is remembered: nothing is started on the node until it is undone. One that Ray gives
notice of is not, because Ray itself starts nothing there; it is seen by looking, and the shards leave by themselves.
Standbys do not move: they have nothing that their shard has not. They end, and others are made elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, RowloomError, Unavailable, in_words
from ..config.runtime_env import digest_of
from ..control.coordinator import Coordinator
from ..control.effects import Program
from ..control.handover import InTurn, Restart, every_shard, these_shards
from ..performer import Performer
from ..scaling import Mover, Scalings
from ..standby.standbys import Standbys
from .nodes import Node, Nodes, meant, named

log = logging.getLogger(__name__)
LOOK_S = 3.0  # between two looks for nodes that are taken away
ONE_MACHINE = (
    "shards of this cluster are processes of one machine: there is no node to drain. "
    "`rowloom scale` makes them fewer, `rowloom apply --restart` starts each anew"
)


class Draining:
    """Drains and upgrades of one cluster.

    Args:
        coordinator: of the moment; another one after a restart.
        performer: runs what changes.
        scalings: runs what moves.
        nodes: of the launcher; None: it has only this machine.
        limit_s: for servers to read their logs.
        environment: that servers have now.
        renewed: told the one that they have from now on.
        leave: ends this coordinator, and starts another one that takes the cluster up, not on these nodes.
        standbys: of the moment.
    """

    def __init__(
        self,
        coordinator: Callable[[], Coordinator],
        performer: Performer,
        scalings: Scalings,
        nodes: Nodes | None,
        *,
        limit_s: float,
        environment: Callable[[], Mapping[str, Any]] = dict,
        renewed: Callable[[Mapping[str, Any]], None] = lambda env: None,
        leave: Callable[[Sequence[str]], None] = lambda avoided: None,
        standbys: Callable[[], Standbys],
    ) -> None:
        self._coordinator = coordinator
        self._standbys = standbys
        self._performer = performer
        self._scalings = scalings
        self._nodes = nodes
        self._limit_s = limit_s
        self._environment = environment
        self._renewed = renewed
        self._leave = leave
        self._offered: dict[str, Mapping[str, Any]] = {}
        self._said = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rowloom-nodes", daemon=True)

    def start(self) -> None:
        """Go on with what was decided before this coordinator, and begin to look for nodes that are taken away."""
        if self._nodes is None:
            return
        state = self._coordinator().state
        if state.drained:
            self._nodes.avoid(state.drained)
        if state.runtime_env is not None:
            env = json.loads(state.runtime_env)
            self._nodes.use(env)
            self._renewed(env)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a question to Ray that is under way is not waited for."""
        self._ending.set()

    # ------------------------------------------------------------------------------------------------------- drains

    def answer(self, request: pb.DrainRequest) -> pb.DrainReply:
        """Drain a node, or use it again.

        Raises:
            InvalidRequest: there is no such node, or only one; nothing was changed.
            Unavailable: no other node has room; nothing was changed.
            RetryLater: something else runs.
        """
        nodes = self._there()
        drained = self._coordinator().state.drained
        if request.undo:
            return self._undone(nodes, drained, request.node)
        node = meant(request.node, nodes.nodes())
        return self._drain(nodes, node, list(dict.fromkeys([*drained, node.id])))

    def _undone(self, nodes: Nodes, drained: Sequence[str], text: str) -> pb.DrainReply:
        known = {node.id: node for node in nodes.nodes()}
        left = [known.get(id, Node(id, "gone")) for id in drained]
        if not named(text, left) and named(text, list(known.values())):
            raise InvalidRequest(
                f"{text} is not drained, so nothing was changed; drained are: {'; '.join(map(str, left)) or 'none'}"
            )
        node = meant(text, left)
        self._avoid(nodes, [id for id in drained if id != node.id])
        return pb.DrainReply(node=node.id, address=node.address)

    def _drain(self, nodes: Nodes, node: Node, drained: list[str]) -> pb.DrainReply:
        """drained: nodes that get nothing new, by their owner's word; with this one, or, as Ray says it, without."""
        what = f"the drain of node {node}"
        reply = pb.DrainReply(node=node.id, address=node.address, coordinator=nodes.here() == node.id)
        running = self._scalings.same(what)
        if running is not None:
            reply.move.CopyFrom(running)
            reply.shards.extend(running.handed_over)
            return reply
        indexes = self._on(nodes, node.id)
        reply.shards.extend(indexes)
        without = {*drained, node.id}
        reply.standbys.extend(self._standbys_on(nodes, node.id))
        usable = [n for n in nodes.nodes() if n.id not in without and not n.draining]
        if not usable and (indexes or reply.coordinator):
            raise Unavailable(
                f"there is no other node than {node} that could be used; nothing was moved: add one"
            )
        if indexes:
            nodes.check_room(len(indexes), without)
        self._avoid(nodes, drained)

        def leave() -> None:  # not before: what has room now is for the shards
            self._leave_by_standbys(nodes, without)
            if reply.coordinator:
                self._leave(sorted(without))

        if not indexes:
            leave()
            return reply
        move = self._scalings.hand_over(
            what, indexes, lambda: these_shards(self._coordinator(), indexes, self._limit_s), leave
        )
        reply.move.CopyFrom(move)
        return reply

    def _on(self, nodes: Nodes, node: str) -> list[int]:
        """Indexes of the shards on a node."""
        keys = self._coordinator().state.keys
        where = nodes.where(keys)
        return [index for index, key in enumerate(keys) if where.get(key) == node]

    def _standbys_on(self, nodes: Nodes, node: str) -> list[int]:
        """Indexes of the shards whose standby is on a node."""
        standbys = self._coordinator().state.standbys
        where = nodes.where([one.key for one in standbys.values()]) if standbys else {}
        return sorted(index for index, one in standbys.items() if where.get(one.key) == node)

    def _leave_by_standbys(self, nodes: Nodes, left: Collection[str]) -> None:
        """Standbys on nodes that are left end; others are made where they may be. A later look does what fails."""
        try:
            self._replace([index for node in sorted(left) for index in self._standbys_on(nodes, node)])
        except RowloomError as e:
            self._say(in_words(e))

    def _replace(self, indexes: Sequence[int]) -> None:
        """These standbys end; others are made where they may be."""
        if indexes:
            with self._performer.alone("other standbys"):
                self._performer.run(self._standbys().leave(indexes))

    def _avoid(self, nodes: Nodes, drained: list[str]) -> None:
        coordinator = self._coordinator()
        if drained == coordinator.state.drained:
            return
        nodes.avoid(drained)
        try:
            with self._performer.alone("the choice of nodes"):
                self._performer.run(
                    coordinator.commit(dataclasses.replace(coordinator.state, drained=drained))
                )
        except BaseException:
            nodes.avoid(coordinator.state.drained)
            raise

    def _there(self) -> Nodes:
        if self._nodes is None:
            raise InvalidRequest(f"nothing was changed: {ONE_MACHINE}")
        return self._nodes

    # ------------------------------------------------------------------------------------- nodes that are taken away

    def _watch(self) -> None:
        while not self._ending.wait(LOOK_S):
            try:
                self.look()
            except RetryLater:
                continue  # something else moves: the next look
            except Exception as e:  # a head that does not answer, no room: it may be otherwise later
                self._say(in_words(e) if isinstance(e, RowloomError) else repr(e))

    def look(self) -> None:
        """Begin to drain a node that is taken away, if one is that has a server or this coordinator."""
        nodes = self._there()
        leaving = set(self._coordinator().state.drained)
        for node in nodes.nodes():
            if not node.draining:
                continue
            leaving.add(node.id)
            if nodes.here() == node.id or self._on(nodes, node.id):
                log.warning("node %s is being taken away: its shards go elsewhere", node)
                self._drain(nodes, node, list(self._coordinator().state.drained))
        if self._scalings.running is None:
            self._leave_by_standbys(nodes, leaving)
            self._part(nodes)

    def _part(self, nodes: Nodes) -> None:
        """Standbys that are beside their shard, as long as there was no other node, go to one that there is now."""
        state = self._coordinator().state
        standbys = {i: one for i, one in state.standbys.items() if i < len(state.keys)}
        if not standbys:
            return
        where = nodes.where([*state.keys, *(one.key for one in standbys.values())])
        beside = [
            i for i, one in standbys.items() if (at := where.get(one.key)) and at == where.get(state.keys[i])
        ]
        if beside and nodes.may_part([state.keys[index] for index in beside]):
            log.warning("standbys of shards %s leave the node of their shard: there is another one", beside)
            self._replace(beside)

    def _say(self, text: str) -> None:
        """Once, not at each look."""
        if text != self._said:
            log.warning("nodes that are taken away cannot be left yet: %s", text)
        self._said = text

    # ----------------------------------------------------------------------------------------------------- upgrades

    def offer(self, runtime_env: Mapping[str, Any]) -> None:
        """An environment that may be asked for. It is code: who offers one must be able to run code here anyway."""
        self._offered[digest_of(runtime_env)] = runtime_env

    def upgrade(self, digest: str) -> pb.ScaleReply:
        """Start every server anew with an environment, one after the other, and then the coordinator.

        digest: of the environment that they have, or of one that was offered.

        Raises:
            InvalidRequest: there is no such environment; nothing was changed.
            Unavailable: no node has room for one server more; nothing was changed.
            RetryLater: something else runs.
        """
        nodes, now = self._nodes, self._environment()
        runtime_env = now if digest == digest_of(now) else self._offered.get(digest)
        if runtime_env is None:
            raise InvalidRequest(
                f"nothing was changed: environment {digest!r} is not known here. It comes by way of Ray, not by this "
                "port: run `rowloom apply` where that Ray is reached"
            )
        what = f"the start of all servers anew, with environment {digest[:8]}"
        running = self._scalings.same(what)
        if running is not None:
            return running
        drained = list(self._coordinator().state.drained)
        if nodes is not None:
            nodes.check_room(1, drained)

        def program() -> Mover:
            coordinator = self._coordinator()
            move = every_shard(coordinator, self._limit_s)
            return Upgrade(coordinator, move, nodes, runtime_env, now) if nodes else move

        def renewed() -> None:
            if nodes is not None:
                self._renewed(runtime_env)
                self._leave(drained)

        indexes = range(self._coordinator().layout.n)
        return self._scalings.hand_over(what, indexes, program, renewed)


class Upgrade:
    """All servers anew, with another environment, which is the cluster's own as soon as all have it.

    Args:
        coordinator: of the cluster.
        move: what starts them.
        nodes: of the launcher.
        env: the environment.
        before: that of now.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        move: InTurn | Restart,
        nodes: Nodes,
        env: Mapping[str, Any],
        before: Mapping[str, Any],
    ) -> None:
        self._coordinator, self._move, self._nodes = coordinator, move, nodes
        self._env, self._before = env, before
        self.progress = move.progress

    def cancel(self) -> bool:
        """As `Mover`: those that have begun stay as they are then."""
        return self._move.cancel()

    def run(self) -> Program:
        """As `Mover`."""
        self._nodes.use(self._env)
        try:
            yield from self._move.run()
        except BaseException:
            self._nodes.use(self._before)
            raise
        state = self._coordinator.state
        yield from self._coordinator.commit(dataclasses.replace(state, runtime_env=json.dumps(self._env)))
