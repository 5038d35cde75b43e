"""What every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure in CI: there everything that a test needs is installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Return the folder with other people's test vectors: $HOLDFAST_VECTORS, or beside us."""
    beside = Path(__file__).parents[2] / "shared" / "vectors"
    folder = Path(os.environ.get("HOLDFAST_VECTORS", beside))
    if folder.is_dir():
        return folder
    reason = f"no test vectors in {folder}: set HOLDFAST_VECTORS to their folder"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
