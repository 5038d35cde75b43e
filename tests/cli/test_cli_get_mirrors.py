"""Mirrors and addresses on the command line: a list with TABs, and what is told of a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli_rig import events_of, get

import holdfast as hf
from holdfast.chaos import Object, Redirect

if TYPE_CHECKING:
    from pathlib import Path


def test_a_turn_to_a_mirror_is_told(tmp_path: Path) -> None:
    listed = tmp_path / "files.txt"
    with hf.chaos.server() as empty, hf.chaos.server(Object("/x", 1000)) as server:
        listed.write_text(f"{empty.url('/x')}\t{server.url('/x')}\n", encoding="utf-8")
        done = get("-i", str(listed), "-o", str(tmp_path / "json"), "--json")
        assert done.returncode == 0, done.stdout
        turns = [event for event in events_of(done) if event["event"] == "MirrorChosen"]
        assert [(turn["host"], turn["no"], turn["how"]) for turn in turns] == [
            ("127.0.0.1", 1, "fresh")
        ]
        plain = get("-i", str(listed), "-o", str(tmp_path / "plain"))
        assert plain.returncode == 0
        assert "x: turns to 127.0.0.1" in plain.stderr


def test_a_denied_address_is_told_with_its_next_step(tmp_path: Path) -> None:
    with hf.chaos.server(Redirect("/x", "http://169.254.169.254/latest/")) as server:
        done = get(server.url("/x"), "-o", str(tmp_path), "--allow-private")
    assert done.returncode == 1
    assert "169.254.169.254" in done.stderr
    assert "metadata service" in done.stderr
    assert "[HF-1111]" in done.stderr
