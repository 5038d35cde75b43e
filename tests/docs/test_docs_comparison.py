"""The comparison of downloads: its figures are those of the committed run, its words are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison-downloads.md").read_text(encoding="utf-8")
RUN: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text())
RESULTS = RUN["results"]
WHOLE = {"none", "rst", "fin", "stall", "503", "replaced", "flipped", "kill"}


def outcome(client: str, fault: str) -> str:
    found = {cell["outcome"] for cell in RESULTS[client][fault]}
    return "S" if "S" in found else "F" if "F" in found else "right"


def ratio(client: str, fault: str) -> float:
    return max(cell["ratio"] for cell in RESULTS[client][fault])


def test_the_run_was_a_whole_one() -> None:
    assert RUN["size"] == 256 << 20
    assert {frozenset(row) for row in RESULTS.values()} == {frozenset(WHOLE)}
    peers = {"aria2c -x4", "loop of curl -C -", "rclone s3", "s5cmd", "boto3 download_file"}
    assert peers <= set(RESULTS)


def test_the_page_has_the_table_of_the_run_and_no_other() -> None:
    rows = re.findall(r"^\|.*$", PAGE, re.MULTILINE)
    first = rows.index(RUN["table"][0])
    assert rows[first : first + len(RUN["table"])] == RUN["table"]
    for what in ("command", "date", "machine", "python", "tools"):
        assert RUN[what] in PAGE, what


def test_the_table_shows_the_cells_of_the_run() -> None:
    for line in RUN["table"][2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for fault, cell in zip(RESULTS[name], cells, strict=True):
            runs = RESULTS[name][fault]
            mark = re.match(r"(F |\*\*S\*\* )?(\d+\.\d\d)", cell)
            assert mark is not None
            assert (mark[1] or "").strip(" *") == outcome(name, fault).replace("right", "")
            if len(runs) == 1:
                assert mark[2] == f"{runs[0]['ratio']:.2f}"


def test_its_words_hold_no_other_figures() -> None:
    part = PAGE.partition("\n## Speed")[0]
    words = "\n".join(line for line in part.splitlines() if not line.startswith("|"))
    words = words.replace(RUN["tools"], "").replace(RUN["python"], "")
    assert re.findall(r"\d+\.\d+", words) == []


@pytest.mark.parametrize("name", [name for name in RESULTS if name.startswith("holdfast")])
def test_holdfast_reports_no_success_that_is_none(name: str) -> None:
    silent = {fault for fault in RESULTS[name] if outcome(name, fault) == "S"}
    assert silent == ({"flipped"} if name == "holdfast" else set())
    failed = {fault for fault in RESULTS[name] if outcome(name, fault) == "F"}
    assert failed == set()


def test_what_it_says_of_the_peers_is_what_was_measured() -> None:
    # "Without something to compare with, nobody finds a flipped byte"
    without = {"curl, one try", "aria2c -x4", "loop of curl -C -", "rclone http", "holdfast"}
    assert {outcome(name, "flipped") for name in without} == {"S"}
    with_digest = "aria2c -x4 --checksum --retry-wait=1"
    assert outcome(with_digest, "flipped") == "F"
    assert outcome("rclone s3", "flipped") != "S"
    # "with bytes of two versions in one file, or give up"
    mixing = [name for name in RESULTS if outcome(name, "replaced") != "right"]
    assert len(mixing) > len(RESULTS) / 2
    assert {"aria2c -x4", "loop of curl -C -", "rclone http"} <= {
        name for name in mixing if outcome(name, "replaced") == "S"
    }
    retrying = "curl --retry 40 -C -"
    assert outcome(retrying, "replaced") == "right"
    assert {outcome(retrying, fault) for fault in ("rst", "fin")} == {"F"}


def test_where_peers_are_said_to_be_better_they_are() -> None:
    for fault in ("rst", "fin", "503"):
        assert outcome("loop of curl -C -", fault) == "right"
        assert ratio("loop of curl -C -", fault) < 1.005
    for fault in ("rst", "fin", "stall"):
        for name in ("obstore stream", "rclone http", "rclone s3"):
            assert outcome(name, fault) == "right"
            assert ratio(name, fault) < 1.005

    def seconds(name: str, fault: str) -> float:
        return float(min(cell["seconds"] for cell in RESULTS[name][fault]))

    assert ratio("loop of curl -C -", "kill") < ratio("holdfast", "kill")
    assert {outcome("rclone s3", fault) for fault in ("replaced", "flipped")} == {"right"}
    assert seconds("loop of curl -C -", "503") < seconds("holdfast", "503")
    assert seconds("aria2c -x4", "rst") < seconds("holdfast", "rst")
