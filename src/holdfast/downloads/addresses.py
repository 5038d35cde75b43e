"""Where an item is asked: its URL with what is secret in it, its mirrors, and who vouches for us.

What is secret is never journaled. It lives here, for as long as the process that was told it;
what a listing brought is vouched for anew by the credentials that are found (see `signing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.transfer.verify import ASK_CHECKSUMS
from holdfast.wire.addresses import Reach
from holdfast.wire.urls import Url, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.downloads.items import Item
    from holdfast.transfer.access import Access


_OF_S3 = {ASK_CHECKSUMS: "ENABLED"}
"""What every object of a listing is asked with. Who signs has to sign it, too."""


@dataclass(frozen=True, slots=True)
class Address:
    """How one item is asked.

    headers: sent to the origin of `url`.  mirrors: other addresses of the same file, in the
    order of the list.  access: makes further headers for each request.
    """

    url: Url
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    mirrors: tuple[Url, ...] = ()
    access: Access | None = field(default=None, repr=False)


def reach_of(item: Item, allow_private: bool | None) -> Reach:  # noqa: FBT001 - an option's value
    """Return which addresses an item may ask: as the user decided, else by who named its URL."""
    if allow_private is None:
        return Reach.TYPED if item.typed else Reach.PUBLIC
    return Reach.ANY if allow_private else Reach.PUBLIC


class Addresses:
    """The addresses of all items. For any thread.

    access: for an item, who vouches for us; None for one that needs nobody.
    """

    def __init__(self, access: Callable[[Item], Access | None] = lambda _: None) -> None:
        self._access = access
        self._secret: dict[str, Address] = {}

    def keep(self, item_id: str, address: Address) -> None:
        """Remember an address that cannot be made from the journal."""
        self._secret[item_id] = address

    def of(self, item: Item) -> Address | None:
        """Return how `item` is asked; None if that was secret and nobody has told it again."""
        known = self._secret.get(item.id)
        if known is not None:
            return known
        if item.secret:
            return None
        mirrors = tuple(parse(text) for text in item.mirrors)
        headers = _OF_S3 if item.listing else {}
        return Address(parse(item.url), headers, mirrors, self._access(item))

    def host(self, item: Item) -> str:
        """Return whom `item` is asked from first; empty if that is not known."""
        known = self._secret.get(item.id)
        if known is not None:
            return known.url.host
        return "" if item.secret else parse(item.url).host

    def others(self, item: Item) -> tuple[str, ...]:
        """Return whom else `item` may be asked from."""
        known = self._secret.get(item.id)
        if known is not None:
            return tuple(mirror.host for mirror in known.mirrors)
        return () if item.secret else tuple(parse(text).host for text in item.mirrors)
