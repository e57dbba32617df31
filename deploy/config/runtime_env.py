"""The environment of servers on Ray, as `ray.runtime_env` says it: what can be checked before Ray is asked."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import PydanticCustomError

# What Ray takes for an actor; its own checks, which need Ray, come when a server is started.
KEYS = (
    *("pip", "uv", "conda", "env_vars", "working_dir", "py_modules", "py_executable", "image_uri", "config"),
    *("worker_process_setup_hook", "excludes", "nsight", "rocprof_sys"),
)
# An actor is started by the coordinator, on whatever node: what it is made of must be reachable from there.
_FETCHED = ("working_dir", "py_modules")


def runtime_env(value: Any) -> dict[str, Any]:
    """A runtime environment. Raises PydanticCustomError, which names what is wrong."""
    if not isinstance(value, dict):
        raise PydanticCustomError("runtime_env", "must be a mapping, as {{pip: [rowloom==1.2]}}")
    given = cast("dict[Any, Any]", value)
    for key in given:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(KEYS)}"
            raise _wrong(f"{key!r} is no part of a runtime environment of Ray{hint}")
    env = given.get("env_vars", {})
    if not isinstance(env, dict) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in cast("dict[Any, Any]", env).items()
    ):
        raise _wrong(f"env_vars must be texts by name, as {{OMP_NUM_THREADS: '4'}}, got {env!r}")
    for key in _FETCHED:
        there = given.get(key, [])
        for place in cast("list[Any]", there if isinstance(there, list) else [there]):
            if not isinstance(place, str) or "://" not in place:
                raise _wrong(
                    f"{key} must be a URL that every node can read, as s3://bucket/code.zip or "
                    f"file:///shared/code.zip, got {place!r}: servers are started by the cluster, not from here"
                )
    return cast("dict[str, Any]", given)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("runtime_env", "{why}", {"why": text})


def digest_of(runtime_env: Mapping[str, Any]) -> str:
    """What an environment is called: the sha256 of it as JSON."""
    return hashlib.sha256(json.dumps(runtime_env, sort_keys=True).encode()).hexdigest()
