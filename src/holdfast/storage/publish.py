"""The last step of every file: from its part's name to its own, whole or not at all."""

from __future__ import annotations

import posixpath

from holdfast.runtime.files import files


def publish(part: str, target: str, *, durable: bool = True) -> None:
    """Give the finished file at `part` its final name; both are in one directory.

    The part's bytes must have been synced before: a rename can reach the disk earlier than
    the bytes, and then the final name would hold zeros after a power cut.
    durable: sync the directory, so that the name survives one too. Raises OSError.
    """
    files().rename(part, target)
    if durable:
        files().sync_dir(posixpath.dirname(target))
