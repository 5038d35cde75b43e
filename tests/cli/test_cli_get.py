"""`holdfast get` as a user runs it: a process, its output, its exit code, and its signals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from cli_rig import KIB, command, get, running, until

import holdfast as hf
from certificates import Pair, make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = ["--attempts", "2"]


@pytest.fixture
def server() -> Iterator[hf.chaos.Server]:
    with hf.chaos.server(hf.chaos.Object("/data.nc", 300 * KIB)) as running:
        yield running


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the usual -----------------------------------------------------------------------------------


def test_a_file_comes_whole_and_is_said_so(server: hf.chaos.Server, tmp_path: Path) -> None:
    digest = server.expected_sha256("/data.nc")
    done = get(server.url("/data.nc"), "-o", str(tmp_path), "--sha256", digest)
    assert done.returncode == 0
    assert done.stdout == "done: `data.nc` (300 KiB, sha256 verified)\n"
    assert sha256_of(tmp_path / "data.nc") == digest
    again = get(server.url("/data.nc"), "-o", str(tmp_path), "--sha256", digest)
    assert again.returncode == 0
    assert again.stdout.startswith("skipped: `data.nc` is there already")


def test_piped_output_has_no_control_characters(server: hf.chaos.Server, tmp_path: Path) -> None:
    server.use(hf.chaos.Reset(after_bytes=100 * KIB, limit=1))
    done = get(server.url("/data.nc"), "-o", str(tmp_path))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "ECONNRESET; waits" in done.stderr
    assert "goes on at 100 KiB" in done.stderr


def test_json_is_one_object_per_line_and_the_last_is_the_report(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    server.use(hf.chaos.Reset(after_bytes=100 * KIB, limit=1))
    done = get(server.url("/data.nc"), "-o", str(tmp_path), "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    for event in events:
        assert event["v"] == 1
        assert abs(event["t"] - time.time()) < 60
    assert {event["event"] for event in events} >= {
        "FileState",
        "Attempt",
        "Waited",
        "ResumeAccepted",
        "Progress",
        "Report",
    }
    for event in events[:-1]:
        assert (len(event["id"]), event["path"]) == (16, "data.nc")
    report = events[-1]
    assert report["event"] == "Report"
    assert (report["done"], report["failed"], report["exit_code"]) == (1, [], 0)
    assert report["fetched"] == report["bytes"] == 300 * KIB


def test_several_files_and_a_failed_one(server: hf.chaos.Server, tmp_path: Path) -> None:
    done = get(server.url("/data.nc"), server.url("/absent"), "-o", str(tmp_path))
    assert done.returncode == 1
    assert "done: `data.nc`" in done.stdout
    assert (
        "error: `absent`: the server does not have it (status: 404)\n"
        "  Check the path of the URL. [HF-1301]\n"
    ) in done.stderr
    assert "1 done, 0 skipped, 1 failed" in done.stderr
    status = get("status", "-o", str(tmp_path))
    assert status.returncode == 0
    assert "failed: `absent` (0 B): the server does not have it" in status.stdout
    assert status.stdout.endswith("1 done (300 KiB)\n1 failed (0 B, 1 of unknown size)\n")
    assert f"get retry-failed -o {tmp_path}" in status.stderr


def test_status_as_json_names_every_item(server: hf.chaos.Server, tmp_path: Path) -> None:
    get(server.url("/data.nc"), server.url("/absent"), "-o", str(tmp_path))
    done = get("status", "-o", str(tmp_path), "--json")
    first, second, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["state"], first["verified"], first["size"]) == ("done", "size-only", 300 * KIB)
    assert (second["state"], second["code"], second["reason"]) == ("failed", "HF-1301", "not-found")
    assert last["counts"] == {"done": 1, "failed": 1}


# -- refusals: what, why, what next, a code, an exit code ----------------------------------------


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/x"


@pytest.mark.parametrize(
    ("url", "code", "what", "exit_code"),
    [
        ("example.org/x", "HF-1001", "no `scheme://`", 2),
        ("ftp://example.org/x", "HF-1001", "the scheme `ftp` is not supported", 2),
        ("http://", "HF-1001", "no host", 2),
        ("http://no-such-name.invalid/x", "HF-1101", "the name does not resolve", 1),
        ("CLOSED", "HF-1102", "the connection was refused (host: 127.0.0.1:", 1),
    ],
)
def test_each_failure_has_its_line_and_code(
    url: str, code: str, what: str, exit_code: int, tmp_path: Path
) -> None:
    url = closed_port() if url == "CLOSED" else url
    done = get(url, "-o", str(tmp_path / "out"), *QUICK)
    assert done.returncode == exit_code
    assert done.stdout == ""
    errors = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert what in errors[0]
    assert errors[1].startswith("  ")
    assert errors[1].endswith(f"[{code}]")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or not (tmp_path / "out" / "x").exists()


@pytest.mark.parametrize("place", ["/proc/out", "/dev/null", "FILE/below"])
def test_a_directory_that_cannot_be_written_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    place = str(tmp_path / place) if place.startswith("FILE") else place
    done = get("http://127.0.0.1:1/x", "-o", place)
    assert done.returncode == 2
    assert f"`{place}`" in done.stderr
    assert "[HF-1004]" in done.stderr


def test_a_wrong_digest_fails_with_both_and_leaves_no_file(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    done = get(server.url("/data.nc"), "-o", str(tmp_path), "--sha256", "0" * 64)
    assert done.returncode == 1
    assert "0" * 64 in done.stderr
    assert server.expected_sha256("/data.nc") in done.stderr
    assert "[HF-1401]" in done.stderr
    assert not (tmp_path / "data.nc").exists()


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["http://x/a", "--sha256", "abc"], "HF-1002", "64 hexadecimal digits"),
        (["http://x/a", "http://x/b", "--sha256", "0" * 64], "HF-1003", "are for one URL"),
        ([], "HF-1003", "there is no URL"),
        (["http://x/a", "--workers", "0"], "HF-1003", "`workers`: 0"),
        (["http://x/a", "--stall-timeout", "-1"], "HF-1003", "`idle`: -1"),
        (["http://x/a", "--workers", "many"], "HF-6001", "invalid int value"),
        (["http://x/a", "--max-size", "big"], "HF-6001", "write it as"),
        (["status"], "HF-1008", "there is no journal"),
    ],
)
def test_usage_errors_name_the_thing(
    words: list[str], code: str, what: str, tmp_path: Path
) -> None:
    done = get(*words, "-o", str(tmp_path))
    assert done.returncode == 2
    assert what in done.stderr
    assert f"[{code}]" in done.stderr
    as_json = get(*words, "-o", str(tmp_path), "--json")
    assert as_json.returncode == 2
    assert as_json.stderr == ""
    error = json.loads(as_json.stdout)
    assert (error["event"], error["code"]) == ("Error", code)
    assert what in error["error"]
    assert error["next"]


def test_a_bad_url_among_good_ones_refuses_them_all(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    done = get(server.url("/data.nc"), "no url", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert server.stats.requests == 0
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_refused_with_the_pid(tmp_path: Path) -> None:
    with hf.Downloads(tmp_path):
        done = get("http://127.0.0.1:1/x", "-o", str(tmp_path))
    assert done.returncode == 75
    assert f"pid: {os.getpid()}" in done.stderr
    assert "[HF-1005]" in done.stderr


def test_a_name_from_the_net_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    with hf.chaos.server() as server:
        done = get(server.url("/%1b%5b2Jgone"), "-o", str(tmp_path))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_in_time_and_keeps_every_byte(number: int, tmp_path: Path) -> None:
    obj = hf.chaos.Object("/x", 300 * KIB, faults=[hf.chaos.Stall(after_bytes=200 * KIB)])
    with hf.chaos.server(obj) as server:
        with running(server.url("/x"), "-o", str(tmp_path)) as process:
            until(lambda: server.stats.bytes_down == 200 * KIB)
            time.sleep(0.3)
            process.send_signal(number)
            before = time.monotonic()
            out, err = process.communicate(timeout=20)
            assert time.monotonic() - before < 2
        assert process.returncode == 130
        assert out == ""
        assert "paused: `x`: interrupted\n" in err
        assert "1 left (interrupted): 200 KiB received in" in err
        assert "Traceback" not in err
        server.route("/x").draws.clear()
        before_bytes = server.stats.bytes_down
        assert get(server.url("/x"), "-o", str(tmp_path)).returncode == 0
        assert server.stats.bytes_down - before_bytes == 100 * KIB
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_ctrl_c_ends_a_backoff(tmp_path: Path) -> None:
    faults = [hf.chaos.Status(503, retry_after=30)]
    with hf.chaos.server(hf.chaos.Object("/x", 1), faults=faults) as server:
        with running(server.url("/x"), "-o", str(tmp_path)) as process:
            until(lambda: server.stats.requests == 1)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            before = time.monotonic()
            process.communicate(timeout=20)
            assert time.monotonic() - before < 2
        assert process.returncode == 130


def test_the_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    # Connecting to this address gets no answer here, nor does it end by itself.
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/x"
        with running(url, "-o", str(tmp_path)) as process:
            server.accept()[0].close()
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            before = time.monotonic()
            process.communicate(timeout=20)
            assert time.monotonic() - before < 1
        assert process.returncode == 130


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    obj = hf.chaos.Object("/x", 300 * KIB, faults=[hf.chaos.Stall(after_bytes=KIB, seconds=1.5)])
    with hf.chaos.server(obj) as server:
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                'trap "" INT; exec "$@"',
                "sh",
                *command(server.url("/x"), "-o", str(tmp_path)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: server.stats.bytes_down == KIB)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_kill_9_and_the_same_command_goes_on(tmp_path: Path) -> None:
    obj = hf.chaos.Object("/x", 600 * KIB, faults=[hf.chaos.Stall(after_bytes=400 * KIB, limit=1)])
    with hf.chaos.server(obj) as server:
        words = [server.url("/x"), "-o", str(tmp_path)]
        with running(*words) as process:
            until(lambda: "kept" in get("status", "-o", str(tmp_path), "--json").stdout)
            until(lambda: _kept(tmp_path) > 0)
            process.kill()
            process.communicate()
        kept = _kept(tmp_path)
        assert get(*words).returncode == 0
        assert server.stats.bytes_down == 400 * KIB + 600 * KIB - kept
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def _kept(directory: Path) -> int:
    line = get("status", "-o", str(directory), "--json").stdout.splitlines()[0]
    return int(json.loads(line)["kept"])


# -- https ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("tls"), "localhost", "DNS:localhost")


@contextmanager
def served_by_tls(certificate: Pair, body: bytes, times: int) -> Iterator[int]:
    """Answer `times` connections over TLS, cutting the first body in half."""
    context = certificate.server()

    def serve() -> None:
        for n in range(times):
            plain, _ = listener.accept()
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as client:
                        _answer(client, body, cut=n == 0)
                except (ssl.SSLError, ConnectionError):
                    pass  # a client that does not trust us goes away

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)


def _answer(client: ssl.SSLSocket, body: bytes, *, cut: bool) -> None:
    asked = client.recv(65536).decode()
    start = int(asked.split("bytes=")[1].split("-")[0]) if "bytes=" in asked else 0
    head = f'HTTP/1.1 {206 if start else 200} OK\r\nETag: "1"\r\n'
    head += f"Content-Length: {len(body) - start}\r\n"
    if start:
        head += f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}\r\n"
    stop = len(body) // 2 if cut else len(body)
    client.sendall(head.encode() + b"\r\n" + body[start:stop])


def test_https_is_verified_and_resumed(certificate: Pair, tmp_path: Path) -> None:
    body = bytes(range(256)) * 400
    with served_by_tls(certificate, body, 2) as port:
        url = f"https://localhost:{port}/x"
        done = get(url, "-o", str(tmp_path), SSL_CERT_FILE=certificate[0])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x").read_bytes() == body


def test_a_certificate_that_nobody_vouches_for_is_refused(
    certificate: Pair, tmp_path: Path
) -> None:
    with served_by_tls(certificate, b"x", 2) as port:
        done = get(f"https://localhost:{port}/x", "-o", str(tmp_path))
    assert done.returncode == 1
    assert "the certificate cannot be verified" in done.stderr
    assert "[HF-1107]" in done.stderr
    assert not (tmp_path / "x").exists()


def test_plain_http_behind_https_is_said_so(tmp_path: Path) -> None:
    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        done = get(f"https://127.0.0.1:{listener.getsockname()[1]}/x", "-o", str(tmp_path))
        thread.join()
    assert done.returncode == 1
    assert "[HF-1108]" in done.stderr
