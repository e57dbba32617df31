"""The environment of servers on Ray, as `ray.runtime_env` says it: what can be checked before Ray is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from .faults import Fault, near

# What Ray takes for an actor; its own checks, which need Ray, come when a server is started.
KEYS = (
    *("pip", "uv", "conda", "env_vars", "working_dir", "py_modules", "py_executable", "image_uri", "config"),
    *("worker_process_setup_hook", "excludes", "nsight", "rocprof_sys"),
)
# An actor is started by the coordinator, on whatever node: what it is made of must be reachable from there.
_FETCHED = ("working_dir", "py_modules")


def environment_faults(given: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with a runtime environment."""
    faults: list[Fault] = []
    for key, value in given.items():
        path = f"ray.runtime_env.{key}"
        if key not in KEYS:
            problem = "is no part of a runtime environment of Ray"
            faults.append(Fault(path, value, problem, near(key, KEYS), KEYS))
        elif key == "env_vars" and not _are_texts(value):
            faults.append(Fault(path, value, "must be texts by name, as {OMP_NUM_THREADS: '4'}"))
        elif key in _FETCHED:
            faults += [Fault(path, place, _FROM_NODES) for place in _places(value) if not _is_url(place)]
    return faults


_FROM_NODES = (
    "must be a URL that every node can read, as s3://bucket/code.zip or file:///shared/code.zip, since servers are "
    "started by the cluster, not from here"
)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in cast("dict[str, Any]", value).values())


def _places(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _is_url(place: Any) -> bool:
    return isinstance(place, str) and "://" in place


def digest_of(runtime_env: Mapping[str, Any]) -> str:
    """What an environment is called: the sha256 of it as JSON."""
    return hashlib.sha256(json.dumps(runtime_env, sort_keys=True).encode()).hexdigest()
