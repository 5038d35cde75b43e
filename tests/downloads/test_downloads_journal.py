"""The journal's care: what is altered is refused, never acted on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from downloads_rig import downloads, names_in

import holdfast as hf
from holdfast.downloads import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024


def half_fetched(into: Path, server: hf.chaos.Server) -> None:
    """Leave a journal with one item, half of which is on disk."""
    server.use(hf.chaos.Reset(after_bytes=60 * KIB, limit=1), hf.chaos.Status(404, skip=1))
    with downloads(into) as d:
        d.add(server.url("/x"))
        assert d.run().exit_code == 1
    server.use()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE item SET path = 'y'",
        "UPDATE source SET url = replace(url, '/x', '/y')",
        "DELETE FROM source",
        "UPDATE extent SET off = 8388608",
        "UPDATE extent SET len = len - 1",
        "UPDATE extent SET crc32 = crc32 + 1",
    ],
)
def test_a_row_that_was_altered_is_not_acted_on(change: str, tmp_path: Path) -> None:
    into = tmp_path / "into"
    objects = (hf.chaos.Object("/x", 100 * KIB), hf.chaos.Object("/y", 100 * KIB))
    with hf.chaos.server(*objects) as server:
        half_fetched(into, server)
        with closing(sqlite3.connect(into / ".holdfast.db")) as db:
            assert db.execute(change).rowcount == 1
            db.commit()
        asked = server.stats.requests
        with downloads(into) as d, pytest.raises(DownloadError, match="makes no sense") as refused:
            d.retry_failed()
            d.run()
        assert refused.value.code == "HF-1006"
        assert server.stats.requests == asked
    assert [name for name in names_in(into) if not name.endswith(".part")] == []
