"""The page on chaos cannot go stale: its code runs, and every name is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.chaos import faults, routes

PAGE = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_on_the_page_runs(number: int) -> None:
    name = f"docs/chaos.md block {number + 1}"
    code = compile(BLOCKS[number], name, "exec", dont_inherit=True)
    exec(code, {"__name__": "__docs__"})


def test_every_fault_and_every_route_has_its_row() -> None:
    first_column = set(re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE))
    names = {name for name, kind in vars(faults).items() if isinstance(kind, type)}
    kinds = {kind.__name__ for kind in routes.Route.__subclasses__()}
    assert len(BLOCKS) >= 5
    assert first_column == names | kinds
