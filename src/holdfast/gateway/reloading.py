"""A new configuration for a gateway that runs: what stays, what comes, what goes.

An endpoint is the same if its `id` and its server (address, TLS) are the same. One without an
`id` is the same if its address and its credentials are, wherever in the file it stands now, or
else if the name made of host and place is. Then its health, its breaker, what was learned of
its connections and the connections themselves go over to the new configuration. Everything is
built before anything is taken over, so what cannot be used changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.config import GatewayConfig
    from holdfast.gateway.upstream import Upstream

NEED_RESTART = ("listen", "workers", "tls_cert", "tls_key")
"""Settings of the listening sockets and of the processes: they hold from the next start on."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did, by ids of endpoints. restart: settings that hold from the next start."""

    kept: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def now_usable(config: GatewayConfig, running: GatewayConfig) -> tuple[GatewayConfig, list[str]]:
    """Return what of a configuration can be used at once, and what needs a restart."""
    names = [one for one in NEED_RESTART if getattr(config, one) != getattr(running, one)]
    return replace(config, **{one: getattr(running, one) for one in names}), names


def take_over(cluster: Cluster, before: Cluster) -> Reloaded:
    """Give a new cluster what the one before has; what is not used any more is let go."""
    pairs = _pairs(cluster.upstreams, before.upstreams)
    for new, old in pairs.items():
        _continue(new, old)
    cluster.succeed(before)
    kept = set(map(id, pairs.values()))
    gone = [one for one in before.upstreams if id(one) not in kept]
    for one in gone:
        one.retire()
    return Reloaded(
        kept=tuple(one.endpoint.id for one in pairs),
        added=tuple(one.endpoint.id for one in cluster.upstreams if one not in pairs),
        removed=tuple(one.endpoint.id for one in gone),
    )


def _pairs(new: Iterable[Upstream], old: Iterable[Upstream]) -> dict[Upstream, Upstream]:
    """Return which endpoint goes on as which."""
    left = list(old)
    found: dict[Upstream, Upstream] = {}
    for same in _SAME:
        for one in new:
            there = next((two for two in left if one not in found and same(one, two)), None)
            if there is not None:
                found[one] = there
                left.remove(there)
    return {one: found[one] for one in new if one in found}


def _named(one: Upstream, two: Upstream) -> bool:
    return bool(one.config.id) and one.config.id == two.config.id and one.server == two.server


def _alike(one: Upstream, two: Upstream) -> bool:
    unnamed = not one.config.id and not two.config.id
    return unnamed and one.config.url == two.config.url and one.keys == two.keys


def _placed(one: Upstream, two: Upstream) -> bool:
    return one.endpoint.id == two.endpoint.id and one.server == two.server


_SAME: tuple[Callable[[Upstream, Upstream], bool], ...] = (_named, _alike, _placed)
"""From the surest sign to the weakest."""


def _continue(new: Upstream, old: Upstream) -> None:
    health, options = old.endpoint.health, new.endpoint.health.breaker.options
    if new.keys == old.keys:
        new.endpoint.health = health
    else:
        there = {key: number for number, key in enumerate(old.keys)}
        same = {n: there[key] for n, key in enumerate(new.keys) if key in there}
        new.endpoint.health.succeed(health, same)
    health.breaker.retune(options)
    # Whoever asks it: there is only so much room.
    old.endpoint.max_in_flight = new.endpoint.max_in_flight
    new.endpoint.credit = old.endpoint.credit
    new.succeed(old)


def told_reload(done: Mapping[str, Any]) -> str:
    """Return what a reload did, for people."""
    parts = [
        f"{name}: {', '.join(f'`{one}`' for one in done[name])}"
        for name in ("kept", "added", "removed")
        if done[name]
    ]
    text = f"the configuration was changed; endpoints {'; '.join(parts)}"
    if done["restart"]:
        names = ", ".join(f"`{one}`" for one in done["restart"])
        text += f"\nsettings that hold from the next start on: {names}"
    return text
