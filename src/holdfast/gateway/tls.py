"""TLS on both sides: how endpoints are verified, and what clients are shown.

A file that cannot be used is found when the gateway starts or reloads, not by the first request.
"""

from __future__ import annotations

import os
import ssl
import sys
from typing import TYPE_CHECKING

from holdfast.core.settings import Problem
from holdfast.gateway.options import ConfigError

if TYPE_CHECKING:
    from typing import NoReturn

    from holdfast.gateway.config import EndpointConfig, GatewayConfig

ALPN = ["http/1.1"]
MOST_KEPT = 16
"""Ways of verifying that are remembered."""
_STRICT = ssl.VERIFY_DEFAULT
if sys.version_info >= (3, 13):  # what `ssl.create_default_context` asks for since then
    _STRICT = ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT


class Verified(ssl.SSLContext):
    """How endpoints are verified. A second connection resumes the session of the first.

    That spares both ends the certificates. Event loops offer no way to hand a session over, but for
    this method, which all of them call.
    """

    def __init__(self, protocol: int) -> None:
        del protocol  # taken by `__new__`
        super().__init__()
        self._sessions: dict[str, ssl.SSLSession] = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as in the class above
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection with what is remembered of the same name."""
        if session is None:
            session = self._sessions.get(str(server_hostname))
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, secured: ssl.SSLObject) -> None:
        """Take the session of a connection whose first answer has come: by then it has one."""
        session = secured.session
        if session is not None and session.has_ticket:
            self._sessions[str(secured.server_hostname)] = session

    def forget(self, name: str) -> None:
        """Begin anew with a name: a connection failed, and the session may be why."""
        self._sessions.pop(name, None)


_kept: dict[object, Verified] = {}


def endpoint_context(config: EndpointConfig) -> Verified:
    """Return how an endpoint is verified. Raises ConfigError for a `ca_file` of no use.

    Endpoints that are verified alike share one, and a reload takes it over: while the system's
    authorities are read, no stream moves. Files that have changed are read anew.
    """
    paths = ssl.get_default_verify_paths()
    files = (config.ca_file,) if config.ca_file else (paths.cafile, paths.capath)
    key = (config.verify, config.ca_file, *map(_stamp, files))
    found = _kept.get(key)
    if found is None:
        found = _verified(config)
        if len(_kept) >= MOST_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = found
    return found


def _stamp(path: str | None) -> tuple[int, ...]:
    """Return what is another one once a file or a directory has changed."""
    try:
        seen = os.stat(path or "")  # noqa: PTH116 - of a text that may be empty
    except OSError:
        return ()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _verified(config: EndpointConfig) -> Verified:
    context = Verified(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= _STRICT
    try:
        if config.ca_file:
            context.load_verify_locations(config.ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except OSError as error:
        _refuse("ca_file", config.ca_file, error, endpoint=config.id or config.url)
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(ALPN)
    return context


def listener_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """Return what clients are shown; None if they speak plain HTTP. Raises ConfigError."""
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(ALPN)
    _load(context, config)
    return context


def renew(context: ssl.SSLContext, config: GatewayConfig) -> None:
    """Show clients that come from now on what is in the files now.

    Raises ConfigError, and shows what was shown before, if they cannot be used.
    """
    # A context that has taken a certificate and then refuses its key is of no use to anybody.
    _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), config)
    _load(context, config)


def remember(secured: ssl.SSLObject) -> None:
    """Let the next connection resume the session of this one."""
    context = secured.context
    if isinstance(context, Verified):
        context.remember(secured)


def is_ended(secured: ssl.SSLObject) -> bool:
    """Say whether the peer ended a connection by TLS's own means, which nobody else can.

    Event loops tell of that as of a bare end of TCP; only reading once more shows it.
    """
    try:
        return not secured.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except (ssl.SSLError, ValueError):
        return False


def _load(context: ssl.SSLContext, config: GatewayConfig) -> None:
    for setting, path in (("tls_cert", config.tls_cert), ("tls_key", config.tls_key)):
        try:
            with open(path, "rb"):  # noqa: PTH123 - read by OpenSSL, which names no file
                pass
        except OSError as error:
            _refuse(setting, path, error)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
    except (ssl.SSLError, _Encrypted) as error:
        _refuse_pair(config, error)


class _Encrypted(Exception):
    """A key that wants a password."""


def _no_password() -> NoReturn:
    raise _Encrypted


def _refuse_pair(config: GatewayConfig, error: Exception) -> NoReturn:
    reason = getattr(error, "reason", None) or ""
    setting, path = "tls_key", config.tls_key
    if isinstance(error, _Encrypted):
        text = f"the key in `{path}` is encrypted; store it without a password, readable by you"
    elif reason == "KEY_VALUES_MISMATCH":
        text = f"the key in `{path}` is not that of the certificate in `{config.tls_cert}`"
    elif _holds(config.tls_cert, b"-----BEGIN CERTIFICATE-----"):
        text = f"there is no key in `{path}` that can be read (PEM is wanted)"
    else:
        setting, path = "tls_cert", config.tls_cert
        text = f"there is no certificate in `{path}` (PEM is wanted)"
    raise ConfigError([Problem(setting, text)]) from None


def _holds(path: str, what: bytes) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - as above: what OpenSSL read
        return what in file.read(1 << 20)


def _refuse(setting: str, path: str, error: OSError, *, endpoint: str = "") -> NoReturn:
    place = f"endpoint `{endpoint}`: " if endpoint else ""
    if isinstance(error, ssl.SSLError):
        text = f"{place}there is no certificate in `{path}` (PEM is wanted)"
    else:
        text = f"{place}`{path}` cannot be read ({error.strerror})"
    raise ConfigError([Problem(setting, text)]) from None
