"""Which addresses may be connected to, and from where a URL came that asks for them.

A URL that somebody else wrote (a control API, a list from another machine, a redirect) must not
make this machine ask its own services, those of its network, or the metadata service of its
cloud, which hands out credentials. So it matters who named an address:

    the local user typed it       anything but a metadata service
    a redirect                    from a public address only to public ones; from a private one
                                  that the user typed also to private ones
    anybody else                  public addresses only
    the user allows it            anything but a metadata service

Names say nothing, since whoever owns a name decides where it leads, and may decide otherwise a
second later. The addresses that a look-up gave are judged, all of them, and one of those is
connected to: there is no second look-up (see `connect`).

Pure: no look-up, no socket. Sources: IANA's registries of special-purpose addresses (RFC 6890)
and the RFC of each row.
"""

from __future__ import annotations

import enum
import functools
import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core.verdict import Kind, Sent, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]
    """One answer of `getaddrinfo`: family, type, protocol, canonical name, socket address."""

Address = IPv4Address | IPv6Address


class AddressKind(enum.StrEnum):
    """What an address is for. Only PUBLIC ones are reached over the Internet."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    UNSPECIFIED = "unspecified"
    PRIVATE = "private"
    UNIQUE_LOCAL = "unique local"
    LINK_LOCAL = "link-local"
    SHARED = "carrier-grade NAT"
    MULTICAST = "multicast"
    BROADCAST = "broadcast"
    BENCHMARK = "benchmarking"
    DOCUMENTATION = "documentation"
    RESERVED = "reserved"
    METADATA = "metadata service"


class Row(NamedTuple):
    """A range of addresses, its kind, and where that is written."""

    network: IPv4Network | IPv6Network
    kind: AddressKind
    source: str


def _row(network: str, kind: AddressKind, source: str) -> Row:
    return Row(ip_network(network), kind, source)


TABLE = (
    _row("0.0.0.0/8", AddressKind.UNSPECIFIED, "RFC 1122, 3.2.1.3"),
    _row("10.0.0.0/8", AddressKind.PRIVATE, "RFC 1918"),
    _row("100.64.0.0/10", AddressKind.SHARED, "RFC 6598"),
    _row("127.0.0.0/8", AddressKind.LOOPBACK, "RFC 1122, 3.2.1.3"),
    _row("169.254.0.0/16", AddressKind.LINK_LOCAL, "RFC 3927"),
    _row("172.16.0.0/12", AddressKind.PRIVATE, "RFC 1918"),
    _row("192.0.0.0/24", AddressKind.RESERVED, "RFC 6890"),
    _row("192.0.2.0/24", AddressKind.DOCUMENTATION, "RFC 5737"),
    _row("192.88.99.0/24", AddressKind.RESERVED, "RFC 7526"),
    _row("192.168.0.0/16", AddressKind.PRIVATE, "RFC 1918"),
    _row("198.18.0.0/15", AddressKind.BENCHMARK, "RFC 2544"),
    _row("198.51.100.0/24", AddressKind.DOCUMENTATION, "RFC 5737"),
    _row("203.0.113.0/24", AddressKind.DOCUMENTATION, "RFC 5737"),
    _row("224.0.0.0/4", AddressKind.MULTICAST, "RFC 5771"),
    _row("255.255.255.255/32", AddressKind.BROADCAST, "RFC 919"),
    _row("240.0.0.0/4", AddressKind.RESERVED, "RFC 1112"),
    _row("::/128", AddressKind.UNSPECIFIED, "RFC 4291"),
    _row("::1/128", AddressKind.LOOPBACK, "RFC 4291"),
    _row("2001:2::/48", AddressKind.BENCHMARK, "RFC 5180"),
    _row("2001:db8::/32", AddressKind.DOCUMENTATION, "RFC 3849"),
    _row("2001::/32", AddressKind.PUBLIC, "RFC 4380"),  # Teredo: judged by what is inside
    _row("2001::/23", AddressKind.RESERVED, "RFC 2928"),
    _row("3fff::/20", AddressKind.DOCUMENTATION, "RFC 9637"),
    _row("2000::/3", AddressKind.PUBLIC, "RFC 4291"),
    _row("::ffff:0:0/96", AddressKind.PUBLIC, "RFC 4291"),  # these two as well
    _row("64:ff9b::/96", AddressKind.PUBLIC, "RFC 6052"),
    _row("64:ff9b:1::/48", AddressKind.PRIVATE, "RFC 8215"),
    _row("fc00::/7", AddressKind.UNIQUE_LOCAL, "RFC 4193"),
    _row("fe80::/10", AddressKind.LINK_LOCAL, "RFC 4291"),
    _row("fec0::/10", AddressKind.PRIVATE, "RFC 3879"),
    _row("ff00::/8", AddressKind.MULTICAST, "RFC 4291"),
    _row("::/0", AddressKind.RESERVED, "RFC 4291"),  # what nobody has been given yet
)
"""The first row that fits decides; IPv4 that no row has is public."""

METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, Oracle, DigitalOcean, OpenStack
        "169.254.170.2",  # AWS: credentials of a task
        "169.254.170.23",  # AWS: credentials of a pod
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's own agent; not in a range of its own
        "192.0.0.192",  # Oracle, first generation
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS: credentials of a pod
        "fd00:42::42",  # Scaleway
        "fd20:ce::254",  # Google
    )
)
_NAMES = {
    # RFC 6761, 6.3: never looked up elsewhere. The others are asked of the cloud's own resolver.
    "localhost": AddressKind.LOOPBACK,
    "metadata": AddressKind.METADATA,
    "metadata.google.internal": AddressKind.METADATA,
    "metadata.goog": AddressKind.METADATA,
    "metadata.tencentyun.com": AddressKind.METADATA,
    "instance-data": AddressKind.METADATA,
    "instance-data.ec2.internal": AddressKind.METADATA,
}


class Reach(enum.StrEnum):
    """How far a request may go. A metadata service is in reach of none.

    PUBLIC  public addresses: somebody else named the address
    TYPED   private ones too, until a public one redirects: the local user named it
    ANY     private ones too, whoever names them: the user allows it
    """

    PUBLIC = "public"
    TYPED = "typed"
    ANY = "any"

    def allows(self, kind: AddressKind) -> bool:
        """Whether an address of this kind may be asked."""
        if kind is AddressKind.METADATA:
            return False
        return kind is AddressKind.PUBLIC or self is not Reach.PUBLIC

    def after(self, peer: str) -> Reach:
        """Return the reach of a redirect. peer: the address that sent it, empty if not known."""
        if self is Reach.TYPED and (not peer or kind_of(peer) is AddressKind.PUBLIC):
            return Reach.PUBLIC
        return self


class AddressDenied(OSError):
    """An address that may not be asked. An OSError: no connection came up.

    kind: of the address, or of the first one where a name has several.
    """

    verdict = Verdict(Kind.PERMANENT, Sent.NO, "address", evidence="address policy")

    def __init__(self, host: str, kind: AddressKind) -> None:
        super().__init__(f"`{host}` leads to an address that may not be asked (kind: {kind})")
        self.host = host
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.host, self.kind))


def kind_of(address: str | Address) -> AddressKind:
    """Return the kind of an IP address; of one that carries another, the one that is worse.

    A zone (`fe80::1%eth0`) is passed over. Raises ValueError for what is no address.
    """
    if isinstance(address, str):
        return _kind_of_text(address)
    if address.version == 6 and address.scope_id is not None:
        address = IPv6Address(int(address))
    return _kind_of(address)


@functools.lru_cache(maxsize=1024)
def _kind_of_text(text: str) -> AddressKind:
    return _kind_of(ip_address(text.partition("%")[0]))


def _kind_of(address: Address) -> AddressKind:
    found = [_own_kind(address)]
    if address.version == 6:
        found += [_own_kind(one) for one in _embedded(address)]
    if AddressKind.METADATA in found:
        return AddressKind.METADATA
    return next((kind for kind in found if kind is not AddressKind.PUBLIC), AddressKind.PUBLIC)


def _own_kind(address: Address) -> AddressKind:
    if address in METADATA:
        return AddressKind.METADATA
    for row in TABLE:
        if address.version == row.network.version and address in row.network:
            return row.kind
    return AddressKind.PUBLIC


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address carries, and may lead to."""
    bits = int(address)
    last = IPv4Address(bits & 0xFFFFFFFF)
    found = []
    if bits > 1 and bits >> 32 in _IN_THE_LAST:
        found.append(last)
    if bits >> 80 == 0x0064_FF9B_0001:  # RFC 8215: a /96 below it, as a rule
        found.append(last)
    if bits >> 112 == 0x2002:  # 6to4, RFC 3056
        found.append(IPv4Address(bits >> 80 & 0xFFFFFFFF))
    if bits >> 96 == 0x2001_0000:  # Teredo, RFC 4380: the server, and the client in reverse
        found += [IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF)]
    if bits >> 32 & 0xFDFF_FFFF == 0x0000_5EFE:  # ISATAP, RFC 5214
        found.append(last)
    return found


_IN_THE_LAST = {
    0,  # IPv4-compatible, RFC 4291, 2.5.5.1
    0xFFFF,  # IPv4-mapped, RFC 4291, 2.5.5.2
    0xFFFF_0000,  # IPv4-translated, RFC 7915
    0x0064_FF9B << 64,  # NAT64, RFC 6052
}
"""Prefixes of 96 bits before an IPv4 address."""

_PART = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)\Z")


@functools.lru_cache(maxsize=1024)
def literal(host: str) -> Address | None:
    """Return the address that a host is, or None if it is a name.

    IPv4 in every form that resolvers take (`inet_aton`): `127.1`, `0x7f000001`, `017700000001`
    and `2130706433` are all 127.0.0.1.
    """
    host = host.removeprefix("[").removesuffix("]")
    if ":" in host:
        try:
            return IPv6Address(host.partition("%")[0])
        except ValueError:
            return None
    parts = host.removesuffix(".").split(".")
    if len(parts) > 4 or not all(_PART.match(part) for part in parts):
        return None
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:  # an 8 or 9 in an octal number
        return None
    *front, last = numbers
    if any(number > 255 for number in front) or last >= 256 ** (5 - len(parts)):
        return None
    return IPv4Address(last + sum(n << 8 * (3 - at) for at, n in enumerate(front)))


def _number(text: str) -> int:
    if text[:2] in {"0x", "0X"}:
        return int(text[2:] or "0", 16)
    return int(text, 8 if text[0] == "0" else 10)


def kind_of_host(host: str) -> AddressKind | None:
    """Return the kind of a host that is an address, or a name with one meaning; else None."""
    address = literal(host)
    if address is not None:
        return kind_of(address)
    name = host.lower().removesuffix(".")
    return AddressKind.LOOPBACK if name.endswith(".localhost") else _NAMES.get(name)


def check_host(host: str, reach: Reach) -> None:
    """Judge a host that somebody else looks up, such as a proxy, by its text alone.

    Raises AddressDenied. A name that is not known passes: only who looks it up could judge it.
    """
    kind = kind_of_host(host)
    if kind is not None and not reach.allows(kind):
        raise AddressDenied(host, kind)


def permitted(found: Iterable[AddrInfo], host: str, reach: Reach) -> list[AddrInfo]:
    """Return those addresses of a look-up that may be connected to, in the order to try them.

    IPv6 and IPv4 take turns, beginning with what the resolver put first (RFC 8305, 4).
    Raises AddressDenied if there are addresses, but none that may be asked.
    """
    families: dict[Any, list[AddrInfo]] = {}
    denied: AddressKind | None = None
    for info in found:
        kind = kind_of(str(info[4][0]))
        if reach.allows(kind):
            families.setdefault(info[0], []).append(info)
        elif denied is None:
            denied = kind
    if denied is not None and not families:
        raise AddressDenied(host, denied)
    if len(families) < 2:
        return next(iter(families.values()), [])
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [info for info in turns if info is not None]
