"""Why a connection could not be had: what a TLS handshake with a server says, in words.

gRPC says that a server did not answer, and tries again, whether the server is not up yet or speaks another language. So
where a call did not get through, one plain handshake is made beside it, which does say.
"""

from __future__ import annotations

import socket
import ssl

from ..errors import Unauthenticated
from .credentials import Credentials
from .wrapping import wrapped

TIMEOUT_S = 1.0
_ASKED_S = 0.3  # for a server to say, after the handshake, that it wants a certificate


def why_not(address: str, credentials: Credentials) -> Unauthenticated | None:
    """What keeps a caller and a server apart that both are there; None: nothing that a handshake shows."""
    end = _connected(address)
    if end is None:
        return None
    with end:
        return _with_tls(end, address, credentials) if credentials.tls else _without(end, address)


def _with_tls(
    end: socket.socket, address: str, credentials: Credentials, *, again: bool = True
) -> Unauthenticated | None:
    context = credentials.context()
    host = address.rpartition(":")[0]
    try:
        with wrapped(end, context, credentials.name_of(host)) as secured:
            secured.settimeout(_ASKED_S)
            if not secured.recv(1):  # gRPC's server speaks first, or closes without a word
                return _closed(address, credentials, again=again)
    except ssl.SSLCertVerificationError as e:
        what = f"its certificate is not trusted: {e.verify_message}"
        return Unauthenticated(
            f"the server at {address} could not be told from a stranger: {what} (asked for "
            f"{credentials.name_of(host)!r}, trusted are those of {credentials.ca})"
        )
    except ssl.SSLError as e:
        return Unauthenticated(_refused(address, credentials, e))
    except OSError:  # it closed, or is slow: nothing to be sure of
        return None
    return None


def _closed(address: str, credentials: Credentials, *, again: bool) -> Unauthenticated | None:
    """A server that closes after the handshake does not want the client's certificate, unless it is about to end."""
    if again:
        end = _connected(address)
        if end is None:
            return None
        with end:
            return _with_tls(end, address, credentials, again=False)
    if credentials.cert:
        what = f"does not accept the certificate {credentials.cert}: it may be of another CA, or have expired"
    else:
        what = "asks for a certificate: give `cert` and `key`, or ROWLOOM_CERT and ROWLOOM_KEY"
    return Unauthenticated(f"the server at {address} {what}")


def _connected(address: str) -> socket.socket | None:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)
    except (OSError, ValueError):
        return None


def _refused(address: str, credentials: Credentials, error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if error.reason in (
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
    ):
        return (
            f"the server at {address} does not speak TLS: leave out `ca` (unset ROWLOOM_CA), or turn TLS on there, "
            "`security:` of its deploy config"
        )
    lacking = (
        ""
        if credentials.cert
        else "; it may ask for a certificate: `cert` and `key`, or ROWLOOM_CERT and ROWLOOM_KEY"
    )
    return f"the server at {address} ends the TLS handshake: {reason}{lacking}"


def _without(end: socket.socket, address: str) -> Unauthenticated | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent: it is asked whether there is TLS, not who is there.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with wrapped(end, context):
            pass
    except ssl.SSLError as e:
        if "ALERT" not in (e.reason or ""):
            return None
    except OSError:
        return None
    return Unauthenticated(
        f"the server at {address} speaks TLS: give `ca` (or ROWLOOM_CA), the file of the CA that its certificate is of"
    )
