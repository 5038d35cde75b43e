"""The public names of the room, and what loading them costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import holdfast as hf

NAMES = [
    "Alerts", "ExtraMissing", "JsonFormatter", "Metrics", "Rule", "Secret", "alert_on", "log_to",
    "metrics", "opentelemetry", "redact",
]  # fmt: skip


def test_the_names_are_these():
    assert sorted(hf.telemetry.__all__) == NAMES
    assert sorted(dir(hf.telemetry)) == NAMES
    for name in NAMES:
        assert getattr(hf.telemetry, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hf.telemetry.nonsense  # noqa: B018 - the access is the test


def test_importing_a_module_of_the_room_takes_no_functions_place():
    for module in ("alerts", "exposition", "families", "logs", "meters", "otel", "secret"):
        assert module not in NAMES
        import_module(f"holdfast.telemetry.{module}")
    assert callable(hf.telemetry.metrics)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("", ["logging", "urllib.parse", "json"]),
        (".redact", ["logging", "json", "asyncio", "opentelemetry"]),
        (".meters", ["logging", "json", "asyncio", "opentelemetry"]),
        (".otel", ["asyncio", "opentelemetry"]),
    ],
)
def test_nothing_is_loaded_before_it_is_used(module, absent):
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import holdfast.telemetry{module}\n"
        f"print([name for name in {absent!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
