"""gRPC on the server's side: bytes in, bytes out, errors mapped. No logic.

Any process that answers calls serves through it: shards and the coordinator.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from ...proto.channel import SERVER_OPTIONS
from ...proto.errors import ERROR_KEY, RowloomError, Unavailable, encode_error, status_of
from ...proto.framing import Buffer, joined
from ..access.gate import Gate
from ..access.in_flight import CallsInFlight
from ..call import GRPC, Call, Caller
from .pool import Pool
from .receiving import MOST_MESSAGES, MOST_WAITING, Receiving

log = logging.getLogger(__name__)
THREADS = 8  # that stay when they are idle
MOST_THREADS = MOST_MESSAGES + MOST_WAITING + THREADS
# At once: what comes beyond them is closed. An idle one takes 14 KB. Clients that are idle are not closed: theirs would
# write a line to the trainer's log for each.
MOST_CONNECTIONS = 4096
HELLO_TIMEOUT_S = 10.0  # for a connection to begin to speak HTTP/2; gRPC would wait for two minutes


class GrpcServer(grpc.GenericRpcHandler):
    """A listening port.

    Args:
        handles: whether a method, such as methods.PULL, exists.
        answer: the buffers of its reply; raises RowloomError.
        host: interface to listen on.
        port: 0 picks a free one.
        gate: what it asks of whoever connects; None: nothing.
        in_flight: where its calls are counted by principal, before their messages come; None: nowhere.

    Raises:
        Unavailable: the port is taken or the interface does not exist.
    """

    def __init__(
        self,
        handles: Callable[[str], bool],
        answer: Callable[[Call], Sequence[Buffer]],
        *,
        host: str,
        port: int,
        gate: Gate | None = None,
        in_flight: CallsInFlight | None = None,
    ) -> None:
        self._gate = gate
        self._in_flight = in_flight or CallsInFlight()
        self._handles = handles
        self._answer = answer
        self._pool = Pool(MOST_THREADS, THREADS, "rowloom-rpc")
        self._receiving = Receiving(lambda: self._pool.waiting)
        # It takes any executor, whatever its types say.
        self._server = grpc.server(self._pool, handlers=[self], options=_options())  # pyright: ignore[reportArgumentType]
        credentials = gate.grpc_credentials() if gate is not None else None
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(f"{host}:{port}")
            else:
                self.port = self._server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as e:
            raise Unavailable(f"cannot listen on {host}:{port}: {_why_not(host, port)}") from e
        if self.port == 0:
            raise Unavailable(f"cannot listen on {host}:{port}: {_why_not(host, port)}")

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread, or for their messages to be let in."""
        return self._pool.waiting + self._receiving.queued

    def start(self) -> None:
        """Begin to answer."""
        self._receiving.start()
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way `grace_s` seconds, close the port."""
        self._server.stop(grace_s).wait()
        self._receiving.stop()
        self._pool.shutdown(wait=False)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, without (de)serializers: bytes in, bytes out."""
        method = handler_call_details.method
        if not self._handles(method):
            return None

        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            try:
                caller = self._caller(method, handler_call_details.invocation_metadata)
                who = self._in_flight.enter(caller)
                turn = self._receiving.enter(context)
                try:
                    data = self._receiving.message(messages, context, turn)
                    return joined(self._answer(Call(method, data, caller)))
                finally:
                    self._receiving.leave(turn)
                    self._in_flight.leave(who)
            except RowloomError as e:
                _abort(context, e)
            except grpc.RpcError:  # broken off: nobody is there to answer to
                raise
            except Exception:
                log.exception("%s failed", method)
                _abort(context, RowloomError("internal error; the server's log has the traceback"))
            raise AssertionError("abort raises")

        return grpc.stream_unary_rpc_method_handler(answer)  # see `receiving`

    def _caller(self, method: str, metadata: Any) -> Caller:
        """Who calls. One that may not is refused before its message has come. Raises Unauthorized."""
        if self._gate is None:
            return Caller(GRPC)
        caller = self._gate.caller(GRPC, metadata or ())
        if caller.rights is not None:
            caller.rights.check_method(method)
        return caller


def _why_not(host: str, port: int) -> str:
    """In words, why nobody can listen there, as a plain socket finds out: gRPC does not say."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except socket.gaierror as e:
        return f"there is no host {host!r} ({e.strerror})"
    except OSError as e:
        if e.errno == errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine"
        if e.errno != errno.EADDRINUSE:
            return e.strerror or str(e)
    return "is the port taken?"


def _options() -> list[tuple[str, Any]]:
    # Half of the descriptors that we may have: the lane and files need the others.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, limit // 2)
    return [
        *SERVER_OPTIONS,
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.server_handshake_timeout_ms", int(HELLO_TIMEOUT_S * 1e3)),
    ]


def _abort(context: grpc.ServicerContext, error: RowloomError) -> None:
    context.set_trailing_metadata(((ERROR_KEY, encode_error(error)),))
    context.abort(grpc.StatusCode[status_of(error)], error.message[:1000])
