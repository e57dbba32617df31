"""Whether this machine is fit for a cluster: versions, limits, memory, clock, caches, ports."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ...server.rows.limits import available, total
from ..config.config import DeployConfig
from ..config.memory import in_bytes
from ..config.memory import memory as needed_by
from ..config.words import counted
from ..launch.local_room import MachineRoom, room
from ..operate.local_ray import OBJECT_STORE_BYTES
from .diagnosis import Diagnosis, fault, warning, well
from .rows import every_id

FILES = 4096  # open files that are enough for some hundred shards and trainers
LEAST_FILE_BYTES = 1 << 30  # a segment of a log, a file of a snapshot
TICK_S = 0.01
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)(.*)")


# ------------------------------------------------------------------------------------------------------------ versions


def versions() -> Iterator[Diagnosis]:
    """Of what rowloom needs, and of Ray if it is there, beside the oldest that it works with."""
    yield well("rowloom", f"{importlib.metadata.version('rowloom')}, Python {platform.python_version()}")
    for line in importlib.metadata.requires("rowloom") or []:
        match = _REQUIREMENT.match(line)
        if match is not None and ("extra" not in match[3] or (match[1] == "ray" and _installed("ray"))):
            yield version(match[1], match[2])


def version(name: str, least: str) -> Diagnosis:
    """Of one package."""
    fix = f"pip install --upgrade '{name}>={least}'"
    there = _installed(name)
    if not there:
        return fault(name, "is not installed", fix)
    if _numbers(there) < _numbers(least):
        return fault(name, f"{there} is older than {least}", fix)
    return well(name, there)


def _installed(name: str) -> str:
    """Its version; empty: it is not there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text)[:4])


def compiled_cache() -> Diagnosis:
    """Whether what numba compiles is kept, or each process compiles for itself."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(__file__).parents[2] / "server" / "rows" / "__pycache__"
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"
    places = [Path(given)] if given else [package, own]
    for place in places:
        if can_write(place) is None:
            return well("numba cache", str(place))
    fix = "set NUMBA_CACHE_DIR to a folder that can be written, and that stays"
    where = " and ".join(map(str, places))
    return warning("numba cache", f"{where} cannot be written: each process compiles for half a minute", fix)


def can_write(folder: Path) -> OSError | None:
    """Why no file can be made in a folder, which need not be there; None: one can be."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as e:
        return e
    return None


# -------------------------------------------------------------------------------------------------------------- limits


def limits(config: DeployConfig) -> Iterator[Diagnosis]:
    """Those of a process (`ulimit`), which servers inherit."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < FILES:
        can = f" (this user may have {most})" if most > files else ""
        fix = f"`ulimit -n {FILES}` before `rowloom up`{can}, or LimitNOFILE= of a unit of systemd"
        yield warning("open files", f"{files} for a process: connections and logs beyond that fail", fix)
    else:
        yield well("open files", _limit(files))
    for name, which, option, least in (
        ("address space", resource.RLIMIT_AS, "-v", total().bytes),
        ("size of a file", resource.RLIMIT_FSIZE, "-f", LEAST_FILE_BYTES),
    ):
        soft, _ = resource.getrlimit(which)
        if 0 <= soft < least:
            fix = f"`ulimit {option} unlimited` before `rowloom up`"
            yield fault(
                name, f"{in_bytes(soft)} for a process, and rows and logs may need {in_bytes(least)}", fix
            )
        else:
            yield well(name, _limit(soft))


def room_for(config: DeployConfig, running: int, there: MachineRoom | None = None) -> Diagnosis:
    """Whether the servers of a config can be started here.

    Args:
        config: its shards, and their standbys.
        running: how many of them run already.
        there: what there is room for beside these; None: it is looked at.
    """
    there = there or room()
    each = 1 + config.replicas
    more = max(0, config.shards * each - running)
    if not (lacking := there.lacking(more)):
        what = counted(config.shards, "shard") + (" with a standby each" if config.replicas else "")
        run = f", {running} of their servers run" if running and more else ""
        return well("room for shards", f"{what} can be started{run}" if more else f"{what}, which run")
    fit = (running + there.servers) // each
    most = f"`shards: {fit}`" if fit else "make room"
    other = "leave `replicas` at 0" if config.replicas else "use more machines (`launcher: ray`)"
    return fault("room for shards", lacking, f"{most}, or {other}")


def _limit(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else f"{value:,}"


def memory(config: DeployConfig) -> Iterator[Diagnosis]:
    """How much there is, who limits it, and shared memory."""
    whole, left = total(), available()
    yield well("memory", f"{in_bytes(left.bytes)} is {left.what}; {whole.what} is {in_bytes(whole.bytes)}")
    if (much := every_id(config, needed_by(config), whole)) is not None:
        yield much
    if _read("/proc/sys/vm/overcommit_memory") == "2":
        fix = "`sysctl vm.overcommit_memory=0`"
        yield warning(
            "overcommit",
            "vm.overcommit_memory is 2: tables reserve address space that they may never use",
            fix,
        )
    try:
        os.close(os.memfd_create("rowloom-doctor"))
    except (OSError, AttributeError) as e:
        fix = "allow memfd_create(2) in the container's seccomp profile"
        yield warning(
            "shared memory", f"memfd_create fails ({e}): rows on this machine travel over sockets", fix
        )
    else:
        yield well("shared memory", "trainers on this machine share memory with their shards")
    with contextlib.suppress(OSError):
        disk = os.statvfs("/dev/shm")
        size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        said = f"{in_bytes(free)} free of {in_bytes(size)}"
        if config.launcher == "ray" and free < 2 * OBJECT_STORE_BYTES:
            fix = "`docker run --shm-size=1g`, or `mount -o remount,size=1g /dev/shm`"
            yield warning("/dev/shm", f"{said}: Ray keeps its objects there", fix)
        else:
            yield well("/dev/shm", said)


def _read(file: str) -> str:
    with contextlib.suppress(OSError):
        return Path(file).read_text().strip()
    return ""


def clock() -> Diagnosis:
    """Whether time goes on at the same rate by both clocks of this machine."""
    wall, steady = time.time(), time.monotonic()
    until = steady + TICK_S
    while time.monotonic() < until:
        time.sleep(TICK_S)
    wall, steady = time.time() - wall, time.monotonic() - steady
    if abs(wall - steady) > 0.5:
        fix = "let one program set the clock (chronyd or systemd-timesyncd), by slewing"
        return fault("clock", f"it went {wall:.3f} s in {steady:.3f} s: something sets it", fix)
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return well("clock", f"{said}; a jump of it matters only for `restore --until` and the age of snapshots")


def port(config: DeployConfig, ours: bool, prefix: str = "") -> Diagnosis:
    """Whether the coordinator could listen.

    Args:
        config: of the cluster.
        ours: its cluster runs, and may have the port.
        prefix: of the keys that say where: empty, or `metrics.` for where its metrics are offered.
    """
    host, number = config.host or "127.0.0.1", config.port
    if prefix:
        host, number = config.metrics.host, config.metrics.port or 0
    name, at = f"{prefix}port", f"{host}:{number}" if number else f"{host}, any port"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
    except OSError as e:
        if ours and e.errno == errno.EADDRINUSE:
            return well(name, f"{at} is that of {config.name!r}, which runs")
        called = "" if prefix else "; what others call it is `advertise_host`"
        fix = {
            errno.EADDRINUSE: f"another `{name}:`, or end who has it (`ss -ltnp sport = :{number}`)",
            errno.EADDRNOTAVAIL: f"`{prefix}host:` of this machine (`ip address`){called}",
            errno.EACCES: f"a `{name}:` of 1024 or more",
        }.get(e.errno or 0, f"another `{prefix}host:` or `{name}:`")
        return fault(name, f"cannot listen at {at}: {e.strerror}", fix)
    return well(name, f"{at} is free")


def not_listening(config: DeployConfig) -> list[Diagnosis]:
    """A fault for each address where a cluster that is to start here cannot listen. Of Ray's nodes none is known."""
    if config.launcher != "local":
        return []
    places = ["", "metrics."] if config.metrics.port is not None else [""]
    return [one for prefix in places if (one := port(config, False, prefix)).state == "fault"]
