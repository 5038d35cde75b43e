"""The code in README and docs runs: blocks in order, one namespace per document.

A document is one test, because its blocks build on each other: neither random order nor
several workers may take them apart. Only `python` fences run; shell fences are for reading.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PYTHON_FENCE = re.compile(r"^ *```python$", re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_on_the_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # whatever a page writes does not stay
    document = Document.parse(str(path), PythonCodeBlockParser())
    document.namespace["__name__"] = "__docs__"
    examples = list(document)
    for example in examples:
        example.evaluate()
    # A fence that the parser overlooks would be code that nobody runs.
    assert len(examples) == len(PYTHON_FENCE.findall(document.text))


def test_the_pages_with_code_have_code() -> None:
    by_name = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    for name in ("README.md", "README.zh-CN.md", "policies.md", "events.md", "errors.md"):
        assert PYTHON_FENCE.search(by_name[name]), name


def test_a_wrong_block_fails_and_names_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    first, second = Document.parse(str(page), PythonCodeBlockParser())
    first.evaluate()
    with pytest.raises(AssertionError) as caught:
        second.evaluate()
    last = caught.traceback[-1]
    assert Path(str(last.path)) == page
    assert last.lineno + 1 == 8  # `lineno` counts from 0
