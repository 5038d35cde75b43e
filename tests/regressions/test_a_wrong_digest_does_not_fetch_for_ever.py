"""With as many streams as extents all were given back for repair, and it began from zero again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import holdfast as hf

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 20 << 20


def test_a_wrong_digest_does_not_fetch_for_ever(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x.bin", SIZE)) as server:
        with hf.Downloads(tmp_path, workers=8, durability="process") as d:
            d.add(server.url("/x.bin"), sha256="0" * 64)
            report = d.run()
        assert [failed.code for failed in report.failed] == ["HF-1401"]
        assert report.fetched <= 2.1 * SIZE
