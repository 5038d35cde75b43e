"""The last step of a file: after a power cut at any moment it is there whole or not at all."""

from __future__ import annotations

from contextlib import closing

from holdfast.runtime import files as seam
from holdfast.storage.publish import publish
from holdfast.testing.files import PowerCut, SimFiles


def test_the_name_survives_a_power_cut() -> None:
    files = SimFiles()
    files.makedirs("/d")
    with seam.install(files):
        with closing(files.create("/d/.x.part")) as part:
            part.pwrite(b"whole", 0)
            part.datasync()
        publish("/d/.x.part", "/d/x")
    files.crash()
    assert files.listdir("/d") == ["x"]
    assert files.read("/d/x") == b"whole"


def test_a_cut_before_the_end_leaves_the_part_or_the_file() -> None:
    for at in (1, 2):
        files = SimFiles()
        files.makedirs("/d")
        with closing(files.create("/d/.x.part")) as part:
            part.pwrite(b"whole", 0)
            part.datasync()
        files.sync_dir("/d")
        files.cut_at(at)
        with seam.install(files):
            try:
                publish("/d/.x.part", "/d/x")
            except PowerCut:
                files.crash()
        assert files.listdir("/d") == [".x.part"]
        assert files.read("/d/.x.part") == b"whole"


def test_a_cut_is_all_that_stands_between_the_steps() -> None:
    files = SimFiles()
    files.makedirs("/d")
    files.create("/d/.x.part").close()
    calls = files.calls
    with seam.install(files):
        publish("/d/.x.part", "/d/x", durable=False)
    assert [op for op, _ in files.log[calls:]] == ["rename"]
