"""`holdfast gateway check`: can a configuration be used, and what is the worst that can happen."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast.cli.gateway_state import source_of
from holdfast.cli.output import Exit
from holdfast.cli.plan_file import show
from holdfast.gateway.checking import check_usable
from holdfast.gateway.worst import plan_of

if TYPE_CHECKING:
    import argparse

    from holdfast.cli.output import Console
    from holdfast.gateway.config import EndpointConfig, GatewayConfig

UNKNOWN = "HF-3210"
SHOWN = 3
"""Addresses of one name that are printed."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a look-up found. error: why it found nothing."""

    endpoint: EndpointConfig
    addresses: tuple[str, ...] = ()
    error: str = ""


def check(args: argparse.Namespace) -> int:
    """Read everything, look up every name, and print the worst case."""
    source, console = source_of(args), args.console
    loaded = source.load()
    check_usable(loaded.config)
    found = [_look_up(one) for one in loaded.config.endpoint]
    plan = plan_of(loaded.config)
    console.event(
        "Check",
        {
            "config": str(source.path),
            "cluster": loaded.name,
            "listen": [str(one) for one in loaded.config.listen],
            "endpoints": [
                {"url": one.endpoint.url, "addresses": one.addresses, "error": one.error}
                for one in found
            ],
            "plan": plan.as_dict(),
        },
    )
    _show(console, loaded.name, loaded.config, found)
    if not console.json:
        show(console, loaded.name, plan)
    for one in found:
        if one.error and not console.json:
            console.error(
                f"`{one.endpoint.url}`: the name is not known: {one.error}",
                next_step="Correct `url`, or see whether this machine can look up names.",
                code=UNKNOWN,
            )
    return Exit.FAILED if any(one.error for one in found) else Exit.DONE


def _look_up(endpoint: EndpointConfig) -> _Looked:
    parts = urlsplit(endpoint.url)
    try:
        infos = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return _Looked(endpoint, error=getattr(error, "strerror", None) or str(error))
    return _Looked(endpoint, tuple(dict.fromkeys(str(info[4][0]) for info in infos)))


def _show(console: Console, name: str, config: GatewayConfig, found: list[_Looked]) -> None:
    line = console.line
    line(f"gateway `{name}` can be used; it listens at {', '.join(map(str, config.listen))}")
    for one in found:
        where = ", ".join(one.addresses[:SHOWN]) or "no address"
        if len(one.addresses) > SHOWN:
            where += f" and {len(one.addresses) - SHOWN} more"
        off = "" if one.endpoint.enabled else ", disabled"
        line(f"  {one.endpoint.url}: {where}; keys: {len(one.endpoint.keys)}{off}")
    line("")
