"""The README: short, its twin says the same, its figures are measured, its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
LINKED = [
    *sorted(ROOT.glob("README*.md")),
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown viewer makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_it_fits_in_150_lines() -> None:
    assert ENGLISH.count("\n") <= 150
    assert CHINESE.count("\n") <= 150


def test_the_two_commands_are_targets_of_make() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in (ENGLISH, CHINESE):
        named = re.findall(r"^\$ make (\w+)", text, re.MULTILINE)
        assert named == ["run", "test"]
        assert set(named) <= targets


def test_the_twin_has_the_same_sections_code_and_rows() -> None:
    assert blocks(CHINESE) == blocks(ENGLISH)
    assert len(blocks(ENGLISH)) == 6
    for pattern in (r"^## ", r"^\| ", r"^\* \*\*\w+"):
        found = [len(re.findall(pattern, text, re.MULTILINE)) for text in (ENGLISH, CHINESE)]
        assert found[0] == found[1] > 0, pattern


def test_the_figures_are_those_of_the_committed_run() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "core.json").read_text())
    rows = results["table"][2:]
    assert len(rows) >= 6
    for text in (ENGLISH, CHINESE):
        assert [row for row in rows if row not in text] == []
        assert results["date"] in text
        assert results["python"] in text


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link
