"""A body of a gibibyte in a mebibyte of gzip: what reading it costs in memory.

Measured in a process of its own, by the kernel's high-water mark of its resident memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from functools import cache

import pytest
from clients_requests_rig import chunks
from clients_server import serving

from scripted import answer

GIB, MIB = 1 << 30, 1 << 20
LIMIT = 32 * MIB
GZIP = "Content-Encoding: gzip"

CLIENT = """
import json, pathlib, sys
import requests
import holdfast as hf

url, stream, options = sys.argv[1], sys.argv[2] == "streamed", json.loads(sys.argv[3])
session = hf.clients.requests.mount(
    requests.Session(), hf.policy(hf.Deadline(60), hf.Retry(3)), **options
)

def peak():  # not ru_maxrss, which a process has from the one that started it
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024

session.get(url.rpartition("/")[0] + "/small")  # everything is imported and connected
base, size, error = peak(), 0, ""
try:
    if stream:
        with session.get(url, stream=True) as response:
            for piece in response.iter_content(65536):
                size += len(piece)
    else:
        size = len(session.get(url).content)
except requests.RequestException as failure:
    error = type(failure).__name__
session.close()
print(json.dumps({"grown": peak() - base, "size": size, "error": error}))
"""


@cache
def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    zeros = bytes(MIB)
    return b"".join([*(packer.compress(zeros) for _ in range(GIB // MIB)), packer.flush()])


def script(asked):
    if asked.target == "/small":
        return [answer(200, b"small")]
    if asked.target == "/plain":
        return [answer(200, bytes(64 * MIB))]
    data = bomb()
    if asked.target == "/length":
        return [answer(200, data, GZIP)]
    return [chunks(*(data[at : at + MIB] for at in range(0, len(data), MIB)), fields=(GZIP,))]


def measured(target: str, how: str, **options: object) -> dict[str, object]:
    with serving(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, f"{server.url}/{target}", how, json.dumps(options)],
            check=True, capture_output=True, text=True, timeout=50,
        )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("how", ["read", "streamed"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_bomb_is_refused_and_costs_little(framing, how):
    found = measured(framing, how)
    assert found["error"] == "ContentDecodingError"
    assert found["size"] <= 2 * MIB
    assert found["grown"] <= LIMIT


def test_a_bomb_that_is_wanted_can_be_streamed():
    found = measured("length", "streamed", max_ratio=2000)
    assert found["error"] == ""
    assert found["size"] == GIB
    assert found["grown"] <= LIMIT


def test_the_measure_sees_what_is_read_into_memory():
    """Else the tests here would show nothing."""
    found = measured("plain", "read")
    assert found["size"] == 64 * MIB
    assert found["grown"] > 48 * MIB


def test_a_limit_of_its_own_bounds_what_is_read():
    found = measured("chunked", "read", max_ratio=2000, max_decoded=8 * MIB)
    assert found["error"] == "ContentDecodingError"
    assert found["grown"] <= LIMIT
