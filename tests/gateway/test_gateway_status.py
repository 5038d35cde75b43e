"""`holdfast gateway status`, for people."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

import pytest
from gateway_process import gate as gate  # noqa: PLC0414 - a fixture

from holdfast.gateway.pidfile import PidFile


def test_status_tells_a_gateway_that_is_starting_from_one_that_serves(gate):
    gate.state.mkdir(mode=0o700)
    file = PidFile(gate.state, "main")
    file.acquire()
    try:
        said, as_json = gate("status"), gate("status", "--json")
        assert (said.returncode, as_json.returncode) == (1, 1)
        assert said.stdout == f"gateway `main` is starting, as process {os.getpid()}\n"
        told = json.loads(as_json.stdout)
        assert (told["running"], told["starting"]) == (False, True)
    finally:
        file.release()


def test_status_of_a_gateway_that_does_not_answer_names_its_unix_socket(gate):
    gate.state.mkdir(mode=0o700)
    file = PidFile(gate.state, "main")
    file.acquire()
    try:
        file.write("unix:/run/llm.sock", 0)
        said = gate("status")
        assert said.returncode == 0
        assert said.stdout.startswith("gateway `main` runs: unix:/run/llm.sock\n")
        assert "does not answer" in said.stderr
    finally:
        file.release()


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
