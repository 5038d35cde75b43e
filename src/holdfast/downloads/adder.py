"""Puts wishes into the journal, some hundred in one commit.

A name belongs to the first item that asks for it. What has failed gives its name up, and so does
what has no byte and was not asked for again: a URL that was mistyped last time does not block
the right one, which often has its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.downloads import wishes
from holdfast.downloads.failures import Failure
from holdfast.downloads.names import collision_key, numbered
from holdfast.downloads.states import Input, State, after, is_open
from holdfast.downloads.store import MOST_AT_ONCE, MOST_OF_A_NAME, Holder
from holdfast.runtime.files import beneath, files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.downloads.addresses import Addresses
    from holdfast.downloads.items import Item
    from holdfast.downloads.store import Store
    from holdfast.downloads.wishes import Wish


class Adder:
    """Adds to one journal. into: the output directory.

    rename: a second item of one name gets a number, and keeps it for all runs.
    allow_dot: names may begin with a dot.
    """

    def __init__(
        self,
        store: Store,
        into: str,
        addresses: Addresses,
        *,
        rename: bool = False,
        allow_dot: bool = False,
    ) -> None:
        self.rename = rename
        self.allow_dot = allow_dot
        self._store = store
        self._into = into
        self._addresses = addresses

    def take(self, wanted: Sequence[Wish]) -> int:
        """Commit all of `wanted`; return how many of them failed at once.

        Memory and transactions are bounded by `MOST_AT_ONCE`, whatever comes.
        """
        failed = 0
        for at in range(0, len(wanted), MOST_AT_ONCE):
            with self._store.together():
                failed += _Batch(self, self._store, wanted[at : at + MOST_AT_ONCE]).add()
        return failed

    def keep(self, wish: Wish) -> None:
        """Remember what the journal may not hold."""
        if wish.address is not None:
            self._addresses.keep(wish.item.id, wish.address)

    def sweep(self, part: str) -> None:
        """Remove the part of an item. part: its path, relative to the output directory."""
        part = beneath(self._into, part)
        if files().stat(part) is not None:
            files().unlink(part)


class _Batch:
    """Some hundred wishes, inside one transaction."""

    def __init__(self, adder: Adder, store: Store, wanted: Sequence[Wish]) -> None:
        self._adder = adder
        self._store = store
        self._wanted = wanted
        self._known = store.find([wish.item.id for wish in wanted])
        keys = {collision_key(wish.item.path) for wish in wanted}
        self._holders = store.holders(list(keys))
        self._new: dict[str, Item] = {}
        self._same: dict[str, None] = {}

    def add(self) -> int:
        failed = 0
        for wish in self._wanted:
            if wish.item.id in self._new:
                self._flush()
            known = self._known.get(wish.item.id)
            item = self._insert(wish.item) if known is None else self._again(known, wish.item)
            failed += item.state is State.FAILED
            self._adder.keep(wish)
            if wish.pieces is not None:
                self._flush()
                self._store.promise_pieces(item.id, wish.pieces)
        self._flush()
        self._store.asked_again(self._same)
        return failed

    def _insert(self, item: Item) -> Item:
        failure = item.failure
        if failure is None:
            item, failure = self._named(item)
        if failure is not None:
            item = replace(item, state=State.FAILED, failure=failure)
        self._new[item.id] = item
        return item

    def _flush(self) -> None:
        if self._new:
            self._store.insert(self._new.values())
            self._known.update(self._new)
            self._new.clear()

    def _again(self, known: Item, item: Item) -> Item:
        state, failure = after(known.state, Input.ADD), item.failure
        if state is known.state and failure is None and wishes.adds_nothing(known, item):
            self._same[item.id] = None
            if is_open(state):
                self._holders.setdefault(collision_key(item.path), _holder(item))
            return known
        if known.state in {State.FAILED, State.CANCELLED}:
            self._store.renew(item.id)
        item = replace(wishes.again(known, item), state=state)
        self._store.ask_again(known, item)
        if is_open(state) and failure is None:
            item, failure = self._named(item)
            if item.path != known.path:
                self._store.rename(item.id, item.path, item.asked)
        if failure is not None and is_open(state):
            self._store.ended(item.id, State.FAILED, failure)
            item = replace(item, state=State.FAILED)
        self._known[item.id] = replace(
            known,
            path=item.path,
            asked=item.asked,
            state=item.state,
            size=item.size,
            digests=item.digests,
            secret=item.secret,
            listing=item.listing,
            mirrors=item.mirrors,
        )
        return item

    def _named(self, item: Item) -> tuple[Item, Failure | None]:
        """Give an item its name, or a numbered one; or say why it gets none."""
        failure = self._refused_name(item)
        n = 0
        while failure is not None and self._adder.rename and n < MOST_OF_A_NAME:
            n += 1
            name = numbered(item.asked or item.path, n)
            key = collision_key(name)
            if key not in self._holders:
                self._holders.update(self._store.holders([key]))
            renamed = replace(item, path=name, asked=item.asked or item.path)
            failure = self._refused_name(renamed)
            if failure is None:
                item = renamed
        return item, failure

    def _refused_name(self, item: Item) -> Failure | None:
        """Give the name to one item; return why not to this one."""
        key = collision_key(item.path)
        other = self._holders.get(key)
        if other is None or other.id == item.id:
            self._holders[key] = _holder(item)
            return None
        here = other.session in {0, self._store.session} or other.id in self._same
        if self._adder.rename or other.kept or here or not is_open(State(other.state)):
            text = f"another item has the same name (`{other.url}`)"
            return Failure("name-collision", text)
        self._adder.sweep(other.part)
        cancelled = after(State(other.state), Input.CANCEL)
        text = f"`{item.url}` took its place"
        self._store.ended(other.id, cancelled, Failure("cancelled", text))
        if other.id in self._known:
            self._known[other.id] = replace(self._known[other.id], state=cancelled)
        self._holders[key] = _holder(item)
        return None


def _holder(item: Item) -> Holder:
    return Holder(item.id, item.asked or item.path, item.state.value, 0, item.url)


def batches(wanted: Iterable[Wish]) -> Iterable[list[Wish]]:
    """Yield lists of at most `MOST_AT_ONCE`."""
    batch: list[Wish] = []
    for wish in wanted:
        batch.append(wish)
        if len(batch) == MOST_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
