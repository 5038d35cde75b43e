"""The shape of the code, and that its documents name everything: what no other tool checks."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.cli.main import COMMANDS
from holdfast.core import events
from holdfast.core.budget import ConcurrentBudget, RatioBudget, SwitchBudget
from holdfast.core.policy import Strategy
from holdfast.telemetry.alerts import METRICS as ALERT_METRICS

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "holdfast"
DOCS = ROOT / "docs"

LONG_FILES = {
    "clients/exchange.py": "the steps of one call over HTTP; each relies on what the others left",
    "core/call.py": "the state machine of one call: its table, its steps and what it says",
    "downloads/crew.py": "who gets which job and connection, behind one lock",
    "downloads/engine.py": "one run: its threads, what steers it, and its report",
    "downloads/small.py": "the lane: slots, answers and looks change one state, on one loop",
    "downloads/fetch.py": "one item from queued to its end, each step in the order it is taken",
    "downloads/store.py": "all statements of one journal, beside the schema they rely on",
    "gateway/client.py": "one connection: what is read, what is written, and one limit for both",
    "testing/files.py": "one simulated file system; its operations share one model of the disk",
    "testing/tcp.py": "one simulated wire; its two ends reach into each other",
    "testing/workload.py": "what is drawn, what the backend does with it, and what must follow",
    "transfer/object.py": "the rules by which one object is fetched, in the order they apply",
}
"""Files of more than 400 lines, and why they stay whole."""

LONG_FUNCTIONS = {
    "clients/aiohttp.py:__call__": "a fast path: a coroutine split off costs 2 us, a call 1 us",
    "downloads/downloads.py:__init__": "its options, one per line, and where each of them goes",
    "runtime/fast.py:acall": "the fast path must not call: what is split off costs every call",
    "runtime/fast.py:fast_acall": "the same: `acall` is inside it, to reach its state at once",
}
"""Functions of more than 60 lines, and why."""


@cache
def modules() -> dict[str, str]:
    """Return path below the package -> text, of every module."""
    return {
        path.relative_to(SRC).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(SRC.rglob("*.py"))
    }


@cache
def functions() -> dict[str, int]:
    """Return `file:name` -> longest length in lines, docstring included, decorators not."""
    found: dict[str, int] = {}
    for name, text in modules().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                where = f"{name}:{node.name}"
                found[where] = max(found.get(where, 0), node.end_lineno - node.lineno + 1)
    return found


def test_most_functions_are_short() -> None:
    lengths = sorted(functions().values())
    assert len(lengths) > 500
    assert lengths[int(len(lengths) * 0.9)] <= 30


def test_long_functions_are_listed_with_a_reason() -> None:
    long = {where: lines for where, lines in functions().items() if lines > 60}
    assert set(long) <= set(LONG_FUNCTIONS), long


def test_long_files_are_listed_with_a_reason() -> None:
    long = {name: text.count("\n") for name, text in modules().items() if text.count("\n") > 400}
    assert set(long) <= set(LONG_FILES), long


def test_the_lists_of_exceptions_name_what_exists() -> None:
    assert set(LONG_FILES) <= set(modules())
    assert set(LONG_FUNCTIONS) <= set(functions())


# -- exceptions from the linters ---------------------------------------------------------

MARK = re.compile(
    r"#\s*(?:noqa(?P<noqa>:\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?"
    r"|type:\s*ignore(?P<ignore>\[[a-z, -]+\])?)"
    r"(?P<rest>[^#]*)"
)
REASON = re.compile(r"\w{3}")


def exceptions_of(text: str) -> list[tuple[int, list[str], bool]]:
    """Return (line, codes, whether a reason stands beside it) of each `noqa` and `ignore`."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        marks = list(MARK.finditer(token.string))
        codes = [
            code
            for mark in marks
            for code in re.findall(r"[A-Za-z][\w-]+", mark["noqa"] or mark["ignore"] or "") or [""]
        ]
        if marks:
            after = token.string[marks[-1].start("rest") :]
            found.append((token.start[0], codes, REASON.search(after) is not None))
    return found


def test_every_exception_from_a_linter_carries_its_code() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("src", "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, codes, _ in exceptions_of(path.read_text(encoding="utf-8"))
        if "" in codes
    ]
    assert not bare


def test_every_exception_from_a_linter_carries_its_reason() -> None:
    # Once per file and code is enough: thirty accesses to one wire have one reason.
    missing = []
    for name, text in modules().items():
        found = exceptions_of(text)
        explained = {code for _, codes, reason in found if reason for code in codes}
        missing += [
            f"{name}:{line}: {code}"
            for line, codes, _ in found
            for code in codes
            if code not in explained
        ]
    assert not missing


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# noqa", ([""], False)),
        ("# noqa: E501", (["E501"], False)),
        ("# noqa: E501, SLF001 - the seam itself", (["E501", "SLF001"], True)),
        ("# type: ignore", ([""], False)),
        ("# type: ignore[misc]  # chosen once", (["misc"], True)),
        ("# type: ignore[misc]  # noqa: E501", (["misc", "E501"], False)),
    ],
)
def test_the_checker_of_exceptions_sees(comment: str, expected: tuple[list[str], bool]) -> None:
    assert exceptions_of(f"x = 1  {comment}\n") == [(1, *expected)]


# -- what nothing that is committed may name ---------------------------------------------

FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:wor" + r"k|ro" + r"ot/\w|ho" + r"me/\w|tm" + r"p/bash)\b",
            r"pypi\.or" + r"g|pythonhost" + r"ed|files\.python" + r"hosted",
        ]
    )
)
"""Paths of one machine, and the host of a package registry. Written so that it misses itself."""


def test_no_file_names_a_machine_or_a_registry() -> None:
    kinds = {".py", ".md", ".toml", ".txt", ".yml", ".cfg", ""}
    files = [path for path in ROOT.glob("*") if path.is_file() and path.suffix in kinds]
    for folder in ("src", "tests", "docs", "benchmarks", ".ci"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    named = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        if path.is_file() and not path.name.startswith(".coverage")
        for match in FOREIGN.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert len(files) > 100
    assert not named


# -- documents that cannot go stale ------------------------------------------------------


@cache
def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def pages() -> dict[str, str]:
    return {path.name: page(path.name) for path in sorted(DOCS.glob("*.md"))}


def section(text: str, title: str) -> str:
    """Return what stands under the heading `title`, deeper headings included."""
    match = re.search(
        rf"^(#+) {re.escape(title)}$\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert match is not None, f"no heading {title}"
    return match[2]


def test_every_error_code_has_a_heading_or_a_row() -> None:
    codes = {code for text in modules().values() for code in re.findall(r"HF-\d{4}", text)}
    rows = re.compile(r"^(?:#+ .*|\| *`?)(HF-\d{4})\b", re.MULTILINE)
    documented = {code for text in pages().values() for code in rows.findall(text)}
    assert len(codes) > 10
    assert codes <= documented, sorted(codes - documented)


def test_every_event_has_its_heading_and_names_its_fields() -> None:
    kinds = [kind for kind in vars(events).values() if inspect.isclass(kind)]
    kinds = [kind for kind in kinds if issubclass(kind, events.Event) and kind is not events.Event]
    assert len(kinds) >= 12
    common = {spec.name for spec in dataclasses.fields(events.Event)}
    text = page("events.md")
    for kind in kinds:
        body = section(text, kind.__name__)
        if kind.__name__.startswith("Circuit"):
            body = section(text, "Circuit")
        for spec in dataclasses.fields(kind):
            assert spec.name in common or f"`{spec.name}`" in body, f"{kind.__name__}.{spec.name}"


def options(kind: type) -> list[str]:
    return [spec.name for spec in dataclasses.fields(kind) if not spec.name.startswith("_")]


@pytest.mark.parametrize("kind", Strategy.__args__, ids=lambda kind: kind.__name__)
def test_every_option_of_a_strategy_has_its_row(kind: type) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(page("policies.md"), kind.__name__), re.MULTILINE)
    assert [name for name in options(kind) if name not in rows] == []


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (hf.Exponential, "Exponential"),
        (hf.Linear, "Linear"),
        (hf.Constant, "Constant"),
        (hf.Decorrelated, "Decorrelated"),
        (hf.Budget, "Budget"),
        (ConcurrentBudget, "Budget.concurrent"),
        (RatioBudget, "Budget.ratio"),
        (SwitchBudget, "Budget.switch"),
    ],
)
def test_every_option_of_backoffs_and_budgets_is_in_its_row(kind: type, row: str) -> None:
    lines = [line for line in page("policies.md").splitlines() if line.startswith(f"| `{row}` |")]
    assert len(lines) == 1
    assert [name for name in options(kind) if f"`{name}`" not in lines[0]] == []


def test_every_option_of_policy_has_its_row() -> None:
    body = section(page("policies.md"), "Names, keys and state")
    names = [
        name
        for name, parameter in inspect.signature(hf.policy).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    assert len(names) >= 5
    assert [name for name in names if f"| `{name}` |" not in body] == []


def test_every_kind_of_failure_has_its_row() -> None:
    body = section(page("policies.md"), "What a failure is")
    assert [kind.name for kind in hf.Kind if f"| `{kind.name}` |" not in body] == []


def test_every_command_has_its_heading() -> None:
    headings = [
        line for text in pages().values() for line in text.splitlines() if line.startswith("#")
    ]
    for name in COMMANDS:
        assert any(f"holdfast {name}" in line for line in headings), name


# -- telemetry: metrics, log fields, spans, alerts ---------------------------------------------


def event_kinds() -> list[type[events.Event]]:
    kinds = [kind for kind in vars(events).values() if inspect.isclass(kind)]
    return [kind for kind in kinds if issubclass(kind, events.Event) and kind is not events.Event]


def test_every_metric_has_its_heading_and_names_its_labels() -> None:
    families = list(hf.telemetry.Metrics().registry)
    assert len(families) >= 14
    for family in families:
        body = section(page("telemetry.md"), family.name).partition("\n###")[0]
        assert body.strip().lower().startswith(family.kind), family.name
        assert set(re.findall(r"`(\w+)`", body.partition("Labels:")[2])) == set(family.labels)


def test_every_log_field_has_its_row() -> None:
    rows = re.findall(r"^\| (.*?) \|", section(page("telemetry.md"), "Log fields"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(hf_\w+)`", row)}
    fields = {spec.name for kind in event_kinds() for spec in dataclasses.fields(kind)}
    own = {"event", "repeated", "lines"}
    assert {f"hf_{name}" for name in (fields - {"time"}) | own} - documented == set()


def test_every_name_told_to_opentelemetry_has_its_row() -> None:
    text = modules()["telemetry/otel.py"].partition("if TYPE_CHECKING")[2]
    told = {f"holdfast.{what}.duration" for what in ("call", "attempt", "wait")}
    told |= set(re.findall(r'"(holdfast\.[a-z.]+)"', text))
    rows = section(page("telemetry.md"), "OpenTelemetry")
    assert len(told) >= 8
    assert [name for name in told if f"`{name}`" not in rows] == []


def test_every_option_and_metric_of_an_alert_rule_has_its_row() -> None:
    rows = re.findall(r"^\| (.*?) \|", section(page("telemetry.md"), "Alerts"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(options(hf.telemetry.Rule)) | set(ALERT_METRICS) == documented


def test_every_option_of_log_to_has_its_row() -> None:
    body = section(page("telemetry.md"), "Logs")
    names = inspect.signature(hf.telemetry.log_to).parameters
    assert [name for name in names if f"| `{name}` |" not in body] == []
