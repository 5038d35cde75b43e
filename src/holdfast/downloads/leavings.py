"""What aria2 leaves beside the parts of ours: known and removed without asking aria2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from holdfast.downloads.items import item_id
from holdfast.downloads.names import part_path
from holdfast.runtime.files import beneath, files

if TYPE_CHECKING:
    from holdfast.downloads.items import Item


def left_by_aria2(into: str, item: Item) -> list[str]:
    """Return what aria2 has left of an item: a part of its own, and its control file."""
    part = os.path.abspath(beneath(into, item.part))  # noqa: PTH100 - links stay
    theirs = part_path(part, item_id(item.url, part))
    return [path for path in (theirs, f"{theirs}.aria2") if files().stat(path) is not None]


def sweep_after_aria2(into: str, item: Item) -> None:
    """Remove it."""
    for path in left_by_aria2(into, item):
        files().unlink(path)
