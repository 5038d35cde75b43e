"""The public names, pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast as hf

NAMES = [
    "AUTH",
    "AdaptiveBulkhead",
    "Aria2Client",
    "Aria2Process",
    "Breaker",
    "Budget",
    "BudgetEmpty",
    "Bulkhead",
    "BulkheadFull",
    "CANCELLED",
    "CONCURRENCY",
    "CONNECT",
    "CircuitOpen",
    "ClientThrottle",
    "Constant",
    "Deadline",
    "DeadlineExceeded",
    "Decorrelated",
    "Downloads",
    "Endpoint",
    "Exponential",
    "Fallback",
    "Gateway",
    "Hedge",
    "HoldfastError",
    "Kind",
    "Linear",
    "Outcome",
    "PERMANENT",
    "Policy",
    "PolicyWarning",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "Request",
    "Retry",
    "Sent",
    "Stopped",
    "THROTTLED",
    "TIMEOUT",
    "TRANSIENT",
    "Timeout",
    "UNKNOWN",
    "Verdict",
    "__version__",
    "chaos",
    "clients",
    "deadline",
    "hold",
    "policy",
    "record",
    "remaining",
    "subscribe",
    "telemetry",
    "testing",
]


def test_the_names_are_these():
    assert sorted(hf.__all__) == sorted(NAMES)
    assert sorted(dir(hf)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_can_be_used_and_says_what_it_is(name):
    value = getattr(hf, name)
    if callable(value) or name in ("chaos", "clients", "telemetry", "testing"):
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hf.nonsense  # noqa: B018 - the access is the test


def test_importing_holdfast_loads_nothing_heavy():
    heavy = ["asyncio", "ssl", "sqlite3", "http.client", "socket", "email.message", "dataclasses"]
    code = f"import sys, holdfast; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(next(iter(hf.__path__)) + "/..")},
    )
    assert done.stdout.strip() == "[]"


def test_synchronous_use_of_a_policy_does_not_load_asyncio():
    code = (
        "import sys, holdfast as hf\n"
        "p = hf.policy(hf.Deadline(5), hf.Retry(3), hf.Breaker())\n"
        "assert p.call(lambda: 1) == 1\n"
        "print('asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
