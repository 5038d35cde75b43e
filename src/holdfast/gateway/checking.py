"""What a configuration needs besides its own words: secrets, certificates, names.

All of it is asked for, so that everything that is missing is told at once.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.core.settings import Problem
from holdfast.gateway.access_log import check_log
from holdfast.gateway.listeners import address_of
from holdfast.gateway.options import ConfigError, find_secret
from holdfast.gateway.tls import endpoint_context, listener_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.gateway.config import GatewayConfig


def check_usable(config: GatewayConfig) -> None:
    """Look up every secret, read every certificate, see where the log goes.

    Raises ConfigError with all problems.
    """
    problems: list[Problem] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except ConfigError as error:
            problems.extend(error.problems)

    for reference in (*config.client_tokens, *(key for one in config.endpoint for key in one.keys)):
        attempt(partial(find_secret, reference))
    for endpoint in config.endpoint:
        if endpoint.url.startswith("https:"):
            attempt(partial(endpoint_context, endpoint))
    attempt(partial(listener_context, config))
    attempt(partial(check_log, config))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check_reach(config: GatewayConfig, sockets: Iterable[Any]) -> None:
    """Refuse to serve other machines without tokens, at sockets that others have opened.

    Raises ConfigError. For addresses in the configuration its own rules see to that.
    """
    far = next((one for one in sockets if not _is_near(one)), None)
    if far is not None and not config.client_tokens:
        text = f"`{address_of(far)}` can be reached from other machines: set it"
        raise ConfigError([Problem("client_tokens", text)])


def _is_near(sock: Any) -> bool:  # noqa: ANN401 - a socket, or what a loop shows of one
    if sock.family == socket.AF_UNIX:
        return True
    try:
        found = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    except ValueError:
        return False
    return bool((getattr(found, "ipv4_mapped", None) or found).is_loopback)
