"""On a full disk the report said that nothing was in vain.

The part held bytes that could not be journaled any more, which the next run fetches again.
"""

from __future__ import annotations

import holdfast as hf
from holdfast.downloads.store import Store
from holdfast.storage.journal import JournalFull

SIZE = 3_000_000


def test_bytes_that_the_journal_does_not_know_count_as_waste(tmp_path, monkeypatch):
    def full(*args):
        raise JournalFull(str(tmp_path), "the disk is full")

    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        with hf.Downloads(into=tmp_path, on_full="fail") as downloads:
            downloads.add(server.url("/x"))
            with monkeypatch.context() as patch:
                patch.setattr(Store, "keep", full)
                report = downloads.run()
        assert (report.done, report.left, report.fetched, report.waste) == (0, 1, SIZE, SIZE)
        with hf.Downloads(into=tmp_path) as downloads:
            downloads.add(server.url("/x"))
            report = downloads.run()
        assert (report.done, report.waste) == (1, 0)
