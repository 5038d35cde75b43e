"""The comparison of gateways: its figures are those of the committed runs, its words are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison-gateway.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
FAULTS: dict[str, Any] = json.loads((RESULTS / "gateway_faults.json").read_text())
SPEED: dict[str, Any] = json.loads((RESULTS / "gateway_speed.json").read_text())
PEERS = {"holdfast", "nginx", "HAProxy", "Envoy"}


def shown(mark: str) -> list[str]:
    """Return the lines of tables between two marks."""
    found = re.search(rf"<!-- {mark} -->\n(.*)<!-- end of {mark} -->", PAGE, re.DOTALL)
    assert found is not None
    return [line for line in found[1].splitlines() if line.startswith("|")]


def share(peer: str, fault: str) -> float:
    """Return the largest share of requests that failed in a round."""
    cells = FAULTS["results"][peer][fault]
    return max(sum(cell["failed"].values()) / cell["asked"] for cell in cells)


def load(peer: str, fault: str) -> float:
    return float(median(cell["load"] for cell in FAULTS["results"][peer][fault]))


def middle(name: str, peer: str, what: str) -> float:
    return float(median(sample[what] for sample in SPEED["samples"][name][peer]))


def test_the_runs_were_whole_ones() -> None:
    assert set(FAULTS["results"]) == PEERS
    assert len({frozenset(row) for row in FAULTS["results"].values()}) == 1
    assert FAULTS["requests"] == 3000
    assert set(SPEED["samples"]) == {"requests", "latency", "streams", "abort", "slow"}
    assert SPEED["rounds"] >= 7
    assert SPEED["streams"] == 1000
    for peer in ("holdfast bare", "holdfast", "nginx", "HAProxy no-delay", "Envoy", "aiohttp"):
        assert len(SPEED["samples"]["requests"][peer]) == SPEED["rounds"]


def test_the_page_has_the_tables_of_the_runs_and_no_others() -> None:
    for mark, run, expected in (
        ("faults", FAULTS, [*FAULTS["table"], *FAULTS["goal_table"]]),
        (
            "speed",
            SPEED,
            [*(line for lines in SPEED["tables"].values() for line in lines), *SPEED["goal_table"]],
        ),
    ):
        lines = shown(mark)
        assert lines[-len(expected) :] == expected
        for what in ("machine", "python", "date", "command", "programs"):
            assert f"| {what} | {run[what]} |" in lines[: -len(expected)]


def test_its_words_hold_no_other_figures() -> None:
    words = re.sub(r"<!-- (\w+) -->\n.*<!-- end of \1 -->", "", PAGE, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+", words) == []


@pytest.mark.parametrize(
    "goal", FAULTS["goals"], ids=lambda goal: f"{goal['fault']}-{goal['what']}"
)
def test_each_goal_of_the_faults_is_judged_by_what_was_measured(goal: dict[str, Any]) -> None:
    if goal["what"] == "share that fails":
        value = share("holdfast", goal["fault"])
    elif goal["what"] == "load of upstreams":
        value = max(cell["load"] for cell in FAULTS["results"]["holdfast"][goal["fault"]])
    else:
        row = FAULTS["results"]["holdfast"]
        value = median(c["settled"] for c in row["hang"]) / median(
            c["settled"] for c in row["none"]
        )
    assert goal["measured"] == pytest.approx(value, abs=1e-4)
    assert goal["met"] == (goal["measured"] <= goal["most"])


def test_holdfast_hides_what_it_says_it_hides() -> None:
    for fault in ("none", "rst", "idle", "503", "429"):
        assert share("holdfast", fault) == 0, fault
    for fault in ("hang", "cut"):
        assert share("holdfast", fault) <= 0.001, fault


def test_what_it_says_of_the_peers_is_what_was_measured() -> None:
    for peer in PEERS - {"holdfast"}:
        assert share(peer, "none") == 0
        assert share(peer, "cut") > 0.05  # none of them fetches a broken answer again
        assert share(peer, "503") > 0.3
        assert share(peer, "429") > 0.3
        assert share(peer, "rst") > 0
        assert share(peer, "idle") > 0
        assert share(peer, "hang") > 0
    assert share("nginx", "idle") > 0.5


def test_where_peers_are_said_to_be_better_they_are() -> None:
    for peer in ("nginx", "HAProxy no-delay"):
        for ours in ("holdfast", "holdfast bare"):
            assert middle("requests", ours, "us") > middle("requests", peer, "us")
    assert load("nginx", "out-refuse") < 1 <= load("holdfast", "out-refuse")


def _name(goal: dict[str, Any]) -> str:
    return "-".join((goal["load"], goal["subject"], goal["what"], goal["peer"]))


@pytest.mark.parametrize("goal", SPEED["goals"], ids=_name)
def test_each_goal_of_the_speed_is_judged_by_what_was_measured(goal: dict[str, Any]) -> None:
    taken = SPEED["samples"][goal["load"]]
    ours = taken[goal["subject"]]
    if goal["what"] == "added p50 ms":
        value = middle("streams", goal["subject"], "p50") - middle("streams", "(no proxy)", "p50")
    elif goal["what"] == "p99 by p99 without":
        value = median(sample["p99"] / sample["p99_before"] for sample in ours)
    elif goal["peer"]:
        pairs = zip(ours, taken[goal["peer"]], strict=True)
        value = median(a[goal["what"]] / b[goal["what"]] for a, b in pairs)
    else:
        value = middle(goal["load"], goal["subject"], goal["what"])
    assert goal["measured"] == pytest.approx(value, abs=0.001)
    measured, most = goal["measured"], goal["most"]
    assert goal["met"] == (measured >= most if goal["least"] else measured <= most)
