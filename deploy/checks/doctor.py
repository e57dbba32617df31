"""All checks of `rowloom doctor`: this machine, the places that it writes to, its Ray, and the clusters known here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import RowloomError
from ...proto.security.credentials import NOTHING, Credentials
from ..config.config import DeployConfig
from ..launch.cluster_folder import shards_in
from ..launch.processes import is_running
from ..launch.ray_session import answers
from ..operate import local_ray
from ..operate.directory import ELSEWHERE, BadHome, ClusterDirectory, DamagedRecord
from ..operate.left_shards import folder_of
from ..operate.remote import Remote
from ..operate.status import GOOD, health_in_words, summary
from . import machine, places, starting
from .diagnosis import Diagnosis, fault, warning, well

ASK_S = 3.0
APART_S = 0.2  # between two looks at a clock
MOST_SKEW_S = 1.0  # `restore --until` counts in seconds, by the clock of each shard
DRIFT = 0.01


def examine(config: DeployConfig, home: Path | None) -> Iterator[Diagnosis]:
    """Every check, one after the other.

    Args:
        config: what a cluster here is to be.
        home: the folder that remembers clusters; None: the usual one.
    """
    yield from machine.versions()
    yield machine.compiled_cache()
    yield from machine.limits(config)
    yield from machine.memory(config)
    yield machine.clock()
    yield from starting.security(config)
    yield from starting.storage(config)
    try:
        directory = ClusterDirectory(home)
    except BadHome as e:
        yield fault("home", str(e), ELSEWHERE)
        return
    yield places.home(directory)
    if config.launcher == "local":
        yield machine.room_for(config, _servers_of(config, directory))
    yield machine.port(config, _runs(config, directory))
    if config.launcher == "ray":
        yield ray(config, directory)
    with contextlib.suppress(RowloomError):  # `home` has said it
        for name in directory.names():
            yield from cluster(name, directory)


def _runs(config: DeployConfig, directory: ClusterDirectory) -> bool:
    with contextlib.suppress(RowloomError):
        record = directory.get(config.name)
        return record is not None and (record.launcher != "local" or is_running(record.pid, record.started))
    return False


def _servers_of(config: DeployConfig, directory: ClusterDirectory) -> int:
    """How many servers of a cluster of that name run on this machine."""
    with contextlib.suppress(OSError):
        return len(shards_in(folder_of(config.name, directory)).running())
    return 0


def ray(config: DeployConfig, directory: ClusterDirectory) -> Diagnosis:
    """The Ray that the config means."""
    if missing := starting.package(config):
        return missing[0]
    address = local_ray.choose(config.ray.address, directory)
    if address is None:
        return well("ray", "none runs here: `rowloom up` starts one of its own on this machine")
    if "://" in address or answers(address):
        return well("ray", f"the Ray at {address} answers")
    fix = "`ray status` there; `ray start --head` starts one, and `ray.address: local` takes one of this machine"
    return fault("ray", f"the Ray at {address} does not answer", fix)


# ------------------------------------------------------------------------------------------------------------ clusters


def cluster(name: str, directory: ClusterDirectory) -> Iterator[Diagnosis]:
    """One that is known here: whether it answers, and the clocks of its shards."""
    what, option = f"cluster {name}", f" --name {name}"
    try:
        record = directory.get(name)
    except DamagedRecord as e:
        yield fault(
            what, str(e), f"`rowloom up` with its config finds it again; `rowloom down{option}` ends it"
        )
        return
    if record is None or record.kept:
        return
    try:
        with Remote(record.address, ASK_S, record.credentials) as remote:
            status = remote.status()
    except RowloomError as e:
        yield fault(
            what,
            f"its coordinator at {record.address or 'no address'} does not answer: {e}",
            f"`rowloom status{option}` says what to do",
        )
        return
    bad = [s for s in summary(status)["shards"] if s["health"] not in GOOD]
    if bad:
        said = ", ".join(f"shard {s['index']} is {health_in_words(s)}" for s in bad)
        yield fault(what, said, f"`rowloom status{option}` says what to do")
    else:
        yield well(what, f"{len(status.shards)} of {len(status.shards)} shards serve")
    addresses = [(f"shard {s.shard.index}", s.shard.address) for s in status.shards]
    yield clocks(what, [("the coordinator", record.address), *addresses], record.credentials)


class Tick(NamedTuple):
    """What a server said of its clocks, and when it was asked, by ours: all in seconds."""

    sent: float
    received: float
    wall: float
    uptime: float
    asked_at: float  # by our wall clock, in the middle


def clocks(what: str, servers: list[tuple[str, str]], credentials: Credentials = NOTHING) -> Diagnosis:
    """The clocks of servers beside that of this machine.

    Args:
        what: whose servers they are.
        servers: (what it is called, host:port).
        credentials: what they are shown.
    """
    name = f"clocks of {what}"
    skews: dict[str, float] = {}
    with Channels(credentials) as channels:
        first = {who: _tick(channels, address) for who, address in servers}
        time.sleep(APART_S)
        second = {who: _tick(channels, address) for who, address in servers}
    for who, tick in first.items():
        later = second[who]
        if tick is None or later is None or not tick.wall:
            continue
        if rate := odd_rate(tick, later):
            return fault(
                name, f"{who}: {rate}", "its machine stands still now and then: look at its load, or its host"
            )
        skews[who] = skew_of(later)
    if not skews:
        return warning(name, "no server says what its clock is", "`rowloom status` says whether they answer")
    spread = max(skews.values()) - min(skews.values())
    worst = max(skews, key=lambda who: abs(skews[who]))
    said = f"{spread:.3f} s apart; {worst} is {skews[worst]:+.3f} s from this machine's"
    if spread > MOST_SKEW_S or abs(skews[worst]) > MOST_SKEW_S:
        fix = "let all machines follow one source of time (chronyd, systemd-timesyncd): `restore --until` goes by them"
        return fault(name, said, fix)
    return well(name, said)


def _tick(channels: Channels, address: str) -> Tick | None:
    with contextlib.suppress(RowloomError):
        at, sent = time.time(), time.monotonic()
        data = channels.call(address, methods.HEALTH, b"", ASK_S)
        received = time.monotonic()
        reply = pb.HealthReply.FromString(data)
        return Tick(sent, received, reply.wall_s, reply.uptime_s, at + (received - sent) / 2)
    return None


def skew_of(tick: Tick) -> float:
    """How far a clock is from ours, in seconds, as far as it is certain: what the answer took may be all on one way."""
    skew, unsure = tick.wall - tick.asked_at, (tick.received - tick.sent) / 2
    return max(0.0, abs(skew) - unsure) * (1 if skew > 0 else -1)


def odd_rate(first: Tick, second: Tick) -> str:
    """In words, that a server's monotonic clock goes faster or slower than ours; empty if it may be right."""
    least, most = second.sent - first.received, second.received - first.sent
    went = second.uptime - first.uptime
    if least * (1 - DRIFT) <= went <= most * (1 + DRIFT):
        return ""
    return f"its clock went {went:.3f} s in {least:.3f} to {most:.3f} s of ours"
