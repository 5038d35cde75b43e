"""The speed of downloads: what the page shows is what the committed run measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison-downloads.md").read_text(encoding="utf-8")
RUN: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "throughput.json").read_text())
SECTION = PAGE.partition("\n## Speed\n")[2]
SHOWN = re.search(r"<!-- speed -->\n(.*)<!-- end of speed -->", SECTION, re.DOTALL)


def column(load: str, subject: str, figure: str) -> list[float]:
    return [sample[figure] for sample in RUN["samples"][load][subject]]


def measured(goal: dict[str, Any]) -> float:
    walls = column(goal["load"], goal["subject"], "wall")
    if goal["what"] == "RSS MiB":
        return median(column(goal["load"], goal["subject"], "rss")) / (1 << 20)
    if goal["what"] == "user s/GiB":
        size = RUN["bytes"][goal["load"]] / (1 << 30)
        return median(column(goal["load"], goal["subject"], "user")) / size
    if not goal["peer"]:
        return median(walls)
    theirs = column(goal["load"], goal["peer"], "wall")
    return median(a / b for a, b in zip(walls, theirs, strict=True))


def test_the_run_had_all_loads_and_a_peer_in_each() -> None:
    assert set(RUN["samples"]) == {"large", "large16", "tls", "medium", "small", "start"}
    for load, by_subject in RUN["samples"].items():
        assert {"holdfast get", "curl"} <= set(by_subject) or load == "large16"
        assert {len(samples) for samples in by_subject.values()} == {RUN["rounds"]}


def test_the_page_has_the_tables_of_the_run_and_no_others() -> None:
    assert SHOWN is not None
    tables = [line for line in SHOWN[1].splitlines() if line.startswith("|")]
    expected = [line for lines in RUN["tables"].values() for line in lines] + RUN["goal_table"]
    assert tables[-len(expected) :] == expected
    facts = tables[: -len(expected)]
    for what in ("machine", "python", "packages", "date", "command", "programs"):
        assert f"| {what} | {RUN[what]} |" in facts


def test_its_words_hold_no_other_figures() -> None:
    words = [line for line in SECTION.splitlines() if not line.startswith("|")]
    assert re.findall(r"\d+\.\d+", "\n".join(words)) == []


def _name(goal: dict[str, Any]) -> str:
    return "-".join((goal["load"], goal["subject"], goal["peer"] or goal["what"]))


@pytest.mark.parametrize("goal", RUN["goals"], ids=_name)
def test_each_goal_is_judged_by_what_was_measured(goal: dict[str, Any]) -> None:
    value = measured(goal)
    assert value == pytest.approx(goal["measured"], abs=0.001)
    assert goal["met"] == (value <= goal["most"])
    word = "met" if goal["met"] else "not met"
    name = goal["peer"] or goal["what"]
    cells = (goal["load"], goal["subject"], name, goal["measured"], goal["most"], word)
    assert f"| {' | '.join(map(str, cells))} |" in RUN["goal_table"]


def test_curl_is_the_lightest_as_the_page_says() -> None:
    for load in ("large", "tls", "start"):
        for figure in ("user", "rss"):
            if (load, figure) == ("tls", "user"):
                continue
            least = median(column(load, "curl", figure))
            # The memory of the program that measures hides what is below it, for all alike.
            slack = (4 << 20) if figure == "rss" else 0.01
            for subject in set(RUN["samples"][load]) - {"curl", "python -c pass"}:
                assert least <= median(column(load, subject, figure)) + slack, (load, subject)


def test_rclone_needs_less_for_tls_as_the_page_says() -> None:
    assert median(column("tls", "rclone", "user")) < median(column("tls", "curl", "user"))
