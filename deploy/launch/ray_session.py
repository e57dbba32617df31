"""Whether and where this process is attached to Ray. Only files named ray_* import it, and only when they are used."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ...proto.errors import InvalidRequest, RowloomError, Unavailable

if TYPE_CHECKING:
    from types import ModuleType

NAMESPACE = "rowloom"
ANSWER_S = 5.0  # what the head of a Ray gets to answer at all
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings


def ray_module() -> ModuleType:
    """The ray module. Raises InvalidRequest if Ray is not installed."""
    try:
        import ray
    except ImportError as e:
        raise InvalidRequest("launcher: ray needs Ray: pip install 'rowloom[ray]'") from e
    return ray


def answers(address: str, timeout_s: float = ANSWER_S) -> bool:
    """Whether the head of a Ray answers at host:port.

    To be asked before `attach`, which waits for ever for a head that is gone or hangs. One that hangs still accepts
    connections, so this waits for its first words. It speaks gRPC: greeted in HTTP/2, it answers with its settings.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s) as head:
            head.sendall(_GREETING)
            return bool(head.recv(1))
    except (OSError, ValueError, OverflowError):
        return False


def attach(address: str, *, token: str | None = None) -> Any:
    """Connect this process to a Ray cluster, unless it is connected. Returns the ray module.

    Args:
        address: "auto" or host:port.
        token: the file with the token to show there; None: what the environment says.

    Raises:
        Unavailable: no Ray answers there.
        InvalidRequest: Ray is not installed; or this process is connected to another Ray.
    """
    if token is not None:  # before the import, which reads it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ["RAY_AUTH_TOKEN_PATH"] = token
    imported = "ray" in sys.modules
    ray = ray_module()
    if ray.is_initialized():
        here = attached_to()
        if address not in ("auto", here):
            raise InvalidRequest(
                f"this process is attached to the Ray at {here}, not to the one at {address}"
            )
        return ray
    if token is not None and imported:
        _read_environment_again()
    if ":" in address and "://" not in address and not answers(address):
        raise Unavailable(f"the Ray at {address} did not answer within {ANSWER_S:g} s")
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError) as e:
        raise Unavailable(
            f"no Ray cluster answers at {address!r}: start one (`ray start --head`), or set ray.address "
            f"to 'local' for one on this machine ({e})"
        ) from e
    return ray


def _read_environment_again() -> None:
    """Ray reads its settings when it is imported, and when a Ray of this process begins: perhaps under other ones."""
    with contextlib.suppress(ImportError, AttributeError):  # versions without tokens
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def attached_to() -> str | None:
    """host:port of the Ray that this process is attached to, or None."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else None


@contextlib.contextmanager
def attached(address: str, *, token: str | None = None) -> Generator[None]:
    """Attached to a Ray; detached at the end, unless this process was attached before."""
    before = attached_to()
    attach(address, token=token)
    try:
        yield
    finally:
        if before is None:
            detach()


def detach() -> None:
    """Disconnect this process from Ray."""
    ray_module().shutdown()


def reason(error: BaseException) -> str:
    """Why a call to an actor failed: the error of ours inside, or the last line of what Ray says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RowloomError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A constructor that failed comes as text: "package.module.Class: message".
    return re.sub(r"^[\w.]+\.([A-Z]\w+): ", "", lines[-1]) if lines else type(error).__name__
