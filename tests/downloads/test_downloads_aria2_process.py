"""A private aria2c: who can use it, what it is told, and how long it lives."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downloads_aria2_rig import ended, needs_aria2c, on_a_loop, until

import holdfast as hf
from holdfast.chaos import Object, Slow
from holdfast.downloads.aria2 import Aria2ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def private_conf(pid: int) -> Path:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    (conf,) = [w for w in words if w.startswith(b"--conf-path=")]
    return Path(conf.partition(b"=")[2].decode())


@needs_aria2c
def test_its_secret_is_in_a_private_file_and_nowhere_else(tmp_path: Path) -> None:
    with hf.Aria2Process(tmp_path) as aria2:
        secret = aria2.secret.reveal()
        assert len(secret) == 64  # 256 bits
        command = Path(f"/proc/{aria2.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{aria2.pid}/environ").read_bytes()
        assert secret.encode() not in command + environment
        assert secret not in repr(aria2)
        conf = private_conf(aria2.pid)
        assert secret in conf.read_text(encoding="utf-8")
        assert conf.stat().st_mode & 0o777 == 0o600
        assert conf.parent.stat().st_mode & 0o777 == 0o700
    assert not conf.parent.exists()
    assert not any(secret.encode() in p.read_bytes() for p in tmp_path.iterdir() if p.is_file())


@needs_aria2c
def test_it_listens_on_loopback_and_answers_nobody_without_the_secret(tmp_path: Path) -> None:
    with hf.Aria2Process(tmp_path) as aria2:
        body = b'{"jsonrpc":"2.0","id":"1","method":"aria2.getVersion","params":[]}'
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(aria2.rpc_url, body, timeout=5)
        with caught.value as answer:
            assert answer.code == 400
            assert answer.headers["Access-Control-Allow-Origin"] is None
        port = int(aria2.rpc_url.split(":")[2].partition("/")[0])
        listening = Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
        local = [line.split()[1] for line in listening if line.split()[3] == "0A"]
        assert [address for address in local if address.endswith(f":{port:04X}")] == [
            f"0100007F:{port:04X}"
        ]


@needs_aria2c
@on_a_loop
async def test_one_that_dies_is_started_again_and_its_downloads_go_on(tmp_path: Path) -> None:
    with (
        hf.chaos.server(Object("/a", 3 << 20, faults=[Slow(2 << 20)])) as server,
        hf.Aria2Process(tmp_path, options={"file-allocation": "none"}) as aria2,
    ):
        async with aria2.client(retry_delay=0.05) as client:
            gid = await client.add_download(server.url("/a"))
            await until(lambda: client.get_progress(gid).completed_length)
            first = aria2.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: aria2.restarts == 1)
            (done,) = await ended(client, gid)
            assert done.status == "complete"
            assert aria2.pid != first
        content = await asyncio.to_thread((tmp_path / "a").read_bytes)
        assert content == server.expected_bytes("/a")


@needs_aria2c
def test_it_ends_when_it_is_left_and_can_be_entered_again(tmp_path: Path) -> None:
    aria2 = hf.Aria2Process(tmp_path)
    for _ in range(2):
        with aria2:
            pid = aria2.pid
            assert is_alive(pid)
        assert not is_alive(pid)
    aria2.stop()


@needs_aria2c
def test_it_ends_when_its_program_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, holdfast as hf\n"
        "aria2 = hf.Aria2Process(sys.argv[1])\n"
        "aria2.__enter__()\n"
        "print(aria2.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        conf = private_conf(pid)
        assert is_alive(pid)
        program.kill()
    wait_until(lambda: not is_alive(pid))
    shutil.rmtree(conf.parent)  # the killed program could not
    with hf.Aria2Process(tmp_path):  # and its lock went with it
        pass


@needs_aria2c
def test_one_at_a_time_uses_a_directory(tmp_path: Path) -> None:
    with (
        hf.Aria2Process(tmp_path),
        pytest.raises(hf.HoldfastError, match="another aria2c") as caught,
        hf.Aria2Process(tmp_path),
    ):
        pass
    assert caught.value.code == "HF-1005"


@needs_aria2c
def test_an_option_that_aria2c_does_not_take_is_said_in_its_words(tmp_path: Path) -> None:
    aria2 = hf.Aria2Process(tmp_path, options={"split": "many"})
    with pytest.raises(Aria2ProcessError, match="split") as caught:
        aria2.__enter__()
    assert caught.value.code == "HF-1604"
    assert aria2.secret.reveal() not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Aria2ProcessError, match="cannot be started"):
        hf.Aria2Process(tmp_path, program="aria2c-that-is-not-there").__enter__()


@pytest.mark.parametrize(
    "options",
    [
        {"rpc-secret": "x"},
        {"rpc-listen-all": True},
        {"save-session": "x"},
        {"split": "1\nrpc-listen-all=true"},
        {"user-agent\nrpc-listen-all": "true"},
        {"header": ["X: 1"]},
    ],
)
def test_options_that_would_open_it_to_others_are_refused(
    options: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(hf.HoldfastError) as caught:
        hf.Aria2Process(tmp_path, options=options)
    assert caught.value.code == "HF-1003"


def test_before_it_is_entered_it_has_no_address(tmp_path: Path) -> None:
    aria2 = hf.Aria2Process(tmp_path)
    for name in ("rpc_url", "pid"):
        with pytest.raises(RuntimeError, match="enter"):
            getattr(aria2, name)
