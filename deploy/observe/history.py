"""The last fifteen minutes of a cluster, for its console: what it did, and what happened to it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ...proto import rowloom_pb2 as pb
from .limits import limits
from .matrix import matrix
from .rates import activity

log = logging.getLogger(__name__)
EVERY_S = 5.0
MOVING_EVERY_S = 1.0  # while rows move, which is drawn as it goes
SAMPLES = 180  # fifteen minutes
EVENTS = 200
TAKEN = 10  # snapshots


class History:
    """Looks at a cluster from time to time. Thread-safe.

    Args:
        status: asks every shard.
        clock: seconds since 1970.
        every_s: from one sample to the next.
    """

    def __init__(
        self,
        status: Callable[[], pb.StatusReply],
        clock: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        self._status, self._clock, self._every_s = status, clock, every_s
        self._lock = threading.Lock()
        self._before: pb.StatusReply | None = None
        self._sampled: tuple[float, pb.StatusReply] | None = None  # when, and what a sample begins with
        self._now: dict[str, Any] | None = None
        self._snapshots: deque[dict[str, Any]] = deque(maxlen=TAKEN)
        self._samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rowloom-history", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Does not wait."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self.look()
            except Exception:  # the next look may do better, unless the coordinator ends
                if not self._ending.is_set():
                    log.exception("looking at the cluster for its console failed")
            self._ending.wait(self._pause_s())

    def _pause_s(self) -> float:
        """Until the next look."""
        moves = self._now is not None and self._now["move"] is not None
        return min(MOVING_EVERY_S, self._every_s) if moves else self._every_s

    def look(self) -> None:
        """Ask, and remember what is new. Raises RowloomError."""
        self.saw(self._status())

    def saw(self, status: pb.StatusReply) -> None:
        """Remember what is new in a status of now."""
        state = activity(status, self._before)
        state |= {"matrix": matrix(status, self._before), "limits": limits(status)}
        with self._lock:
            now = self._clock()
            self._events.extend({"time": now, "text": text} for text in _happened(self._now, state))
            if self._sampled is None:
                self._sampled = now, status
            elif now - self._sampled[0] >= 0.9 * self._every_s:
                self._samples.append(_sample(activity(status, self._sampled[1]), now))
                self._sampled = now, status
            self._note_snapshot(state["snapshot"])
            self._before, self._now = status, state

    def _note_snapshot(self, newest: dict[str, Any] | None) -> None:
        """Keep the last ones; of the newest, what is known of it by now."""
        if newest is None:
            return
        if self._snapshots and self._snapshots[-1]["id"] == newest["id"]:
            self._snapshots.pop()
        self._snapshots.append({key: value for key, value in newest.items() if key != "age_s"})

    def state(self) -> dict[str, Any]:
        """What the console shows: the activity of now, samples and events, oldest first."""
        with self._lock:
            return {
                "now": self._now,
                "time": self._clock(),
                "every_s": self._pause_s(),
                "samples": list(self._samples),
                "events": list(self._events),
                "snapshots": list(self._snapshots),
            }


def _sample(state: dict[str, Any], now: float) -> dict[str, Any]:
    shards = state["shards"]
    return {
        "time": now,
        "pulled_rows_per_s": round(sum(s["pulled_rows_per_s"] for s in shards), 1),
        "pushed_rows_per_s": round(sum(s["pushed_rows_per_s"] for s in shards), 1),
        "p50_ms": max((s["p50_ms"] for s in shards if s.get("p50_ms") is not None), default=None),
        "p99_ms": max((s["p99_ms"] for s in shards if s.get("p99_ms") is not None), default=None),
    }


def _happened(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """In words, what is different."""
    if before is None:
        return ["the console began to look"]
    said: list[str] = []
    if now["epoch"] != before["epoch"]:
        said.append(f"epoch {now['epoch']}: {len(now['shards'])} shards")
    old = {s["index"]: s["health"] for s in before["shards"]}
    said += [
        f"shard {s['index']}: {old[s['index']]} -> {s['health']}"
        for s in now["shards"]
        if old.get(s["index"], s["health"]) != s["health"]
    ]
    if now["snapshot"] and (before["snapshot"] or {}).get("id") != now["snapshot"]["id"]:
        said.append(f"snapshot {now['snapshot']['id']}")
    if (now["move"] is None) != (before["move"] is None):
        moved = now["epoch"] != before["epoch"]
        over = "rows have moved" if moved else "rows move no more, and nothing was changed"
        said.append("rows move" if now["move"] is not None else over)
    names = [{t["name"] for t in state["tables"]} for state in (before, now)]
    said += [f"table {name} was made" for name in sorted(names[1] - names[0])]
    said += [f"table {name} was dropped" for name in sorted(names[0] - names[1])]
    return said + [f"not finished: {one}" for one in now["unfinished"] if one not in before["unfinished"]]
