"""What stood in the way of a request: from an exception, and how far its connection had come, to a fault."""

import errno
from dataclasses import dataclass

from pywren_runtime.connection import CONNECTING, OPEN, SHAKING, TUNNELLING
from pywren_runtime.route import Route

STARVED = (errno.EMFILE, errno.ENFILE)  # no descriptor left to this process, or to this machine


@dataclass(frozen=True, slots=True)
class Fault:
    """A word to decide by, and a text to read."""

    word: str  # "refused" | "unresolved" | "tls" | "reset" | "silence" | "proxy" | "credentials"
    reason: str


def fault_of(error: Exception, state: int, route: Route) -> Fault:
    """The fault that an exception is, on a connection in that state."""
    place = f"{route.peer[0]}:{route.peer[1]}"
    if state == TUNNELLING or (state == CONNECTING and route.tunnel):
        return Fault("proxy", f"no tunnel to {route.host} through the proxy {place}: {error}")
    if state == CONNECTING:
        word = "silence" if isinstance(error, TimeoutError) else "refused"
        return Fault(word, f"no connection to {place}: {error}")
    if isinstance(error, TimeoutError):
        return Fault("silence", f"{place}: {error}")
    if state == SHAKING:
        import ssl

        trusted = f"the authorities in {route.ca}" if route.ca else "the authorities that this machine trusts"
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.rstrip(".")
            return Fault("tls", f"the certificate of {route.host} is not accepted by {trusted}: {why}")
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return Fault("tls", f"no TLS with {place}: {error}")
        return Fault("reset", f"{place} ended the connection while TLS was agreed on: {error}")
    return Fault("reset", f"{place}: {error}")


def silence(state: int, seconds: float) -> TimeoutError:
    """The exception for nothing happening on a connection in that state."""
    what = {
        CONNECTING: "nobody answered",
        TUNNELLING: "the proxy did not answer CONNECT",
        SHAKING: "TLS was not agreed on",
        OPEN: "no answer came",
    }[state]
    return TimeoutError(f"{what} for {seconds:g} s")
