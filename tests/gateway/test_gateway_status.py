"""`holdfast gateway status`, for people."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from gateway_process import gate as gate  # noqa: PLC0414 - a fixture


def test_status_says_why_an_endpoint_is_not_well(gate):
    gate.configure(9)
    _, port = gate.run()
    for _ in range(2):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/messages", b"{}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        caught.value.close()
    said = gate("status").stdout.splitlines()
    assert "degraded" in next(line for line in said if line.startswith("a  "))
    assert said[-1].startswith("a: ECONNREFUSED, last at 20")
