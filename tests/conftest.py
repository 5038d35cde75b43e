"""What every room's tests may use."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Run an S3 server of somebody else, empty at first; return its URL."""
    server_of = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    backends = pytest.importorskip("moto.s3.models", reason="needs moto[s3]").s3_backends
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    backends.reset()  # the process may have had another server
    backends.bucket_accounts.clear()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def moto_store(moto: str) -> Any:
    """Return what lies behind that server: a thousand PUTs through its door take long."""
    from moto.s3.models import s3_backends  # noqa: PLC0415 - the server was not skipped

    return s3_backends["123456789012"]["aws"]
