"""TLS on both sides: how endpoints are verified, and what clients are shown.

A file that cannot be used is found when the gateway starts or reloads, not by the first request.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from holdfast.core.settings import Problem
from holdfast.gateway.options import ConfigError

if TYPE_CHECKING:
    from typing import NoReturn

    from holdfast.gateway.config import EndpointConfig, GatewayConfig

ALPN = ["http/1.1"]


def endpoint_context(config: EndpointConfig) -> ssl.SSLContext:
    """Return how an endpoint is verified. Raises ConfigError for a `ca_file` of no use."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
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
