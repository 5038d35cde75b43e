"""What the commands say to somebody new: what happened, why, and what to do next."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from gateway_process import after, end_of, gate, is_there

__all__ = ["gate"]  # a fixture

# Root may write anywhere, so it gives up that right (PR_CAPBSET_DROP): the tests may run as root.
OBEY_MODES = "import ctypes; [ctypes.CDLL(None).prctl(24, cap, 0, 0, 0) for cap in (1, 2)]"


def run(gate, argv, **options):
    return subprocess.run(
        argv,
        cwd=gate.path,
        env=gate.env,
        check=False,
        timeout=30,
        text=True,
        **{"capture_output": True, **options},
    )


# -- which file, which gateway -----------------------------------------------------------------


def test_without_a_file_it_says_to_write_one(gate):
    done = gate("run")
    assert done.returncode == 2
    assert "not readable: No such file" in done.stderr
    assert "Write it, or name another file; `holdfast gateway --help` shows" in done.stderr


def test_of_two_gateways_one_is_to_be_named(gate):
    gate.configure(9)
    text = gate.file.read_text()
    gate.file.write_text(text + text.replace("main", "other"))
    for command in ("check", "start", "status", "stop"):
        done = gate(command, "-c", gate.file.name)
        assert done.returncode == 2
        assert "which gateway? (known: `main`, `other`)" in done.stderr
        assert "Name one: --cluster NAME" in done.stderr


def test_a_gateway_that_does_not_run_is_told_beside_those_that_do(gate):
    gate.configure(9)
    gate("start")
    for command in ("stop", "status"):
        done = gate(command, "--cluster", "mian")
        assert done.stdout == "gateway `mian` does not run; these do: `main`\n"
    assert "`mian` does not run; these do: `main`" in gate("reload", "--cluster", "mian").stderr


def test_a_second_gateway_of_a_name_is_told_to_take_another(gate):
    gate.configure(9)
    gate("start")
    assert "or name yours differently: `[gateway.NAME]`" in gate("start").stderr


# -- start -------------------------------------------------------------------------------------


def test_start_says_where_clients_are_pointed_to(gate):
    gate.configure(9)
    listen = f"unix:{gate.path}/here"
    assert f"serves {listen} as process" in gate("start", "--listen", listen).stdout
    gate("stop")
    if not socket.has_ipv6:
        return
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # this machine has no such address
    started = gate("start", "--listen", "[::1]:0").stdout
    assert f"serves http://[::1]:{gate.pid_file()['port']} as process" in started


def test_an_address_that_is_none_is_shown(gate):
    gate.configure(9)
    assert "is wanted, not `127.0.0.1:80000`" in gate("start", "--listen", "127.0.0.1:80000").stderr


def test_a_state_directory_that_cannot_be_written_is_an_error_and_no_traceback(gate):
    gate.configure(9)
    gate.state.mkdir(mode=0o500)
    for command in ("start", "run"):
        done = run(gate, after(OBEY_MODES, gate.argv(command)))
        assert done.returncode == 2, done.stderr
        assert f"error: `{gate.state}/gateway-main." in done.stderr
        assert "Permission denied" in done.stderr
        assert "`HOLDFAST_STATE_DIR`. [HF-3203]" in done.stderr
        assert "Traceback" not in done.stderr
    gate.state.chmod(0o700)


def test_a_state_directory_that_is_open_to_others_is_told_with_the_remedy(gate):
    gate.configure(9)
    gate.state.mkdir()
    gate.state.chmod(0o777)
    assert "others may write in it, which `chmod go-w` ends" in gate("start").stderr
    gate.state.chmod(0o700)


# -- while it runs -----------------------------------------------------------------------------


@contextmanager
def asked(gate, port, silent):
    """Give a client whose request is under way."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(20)
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}")
        there, _ = silent.accept()
        with there:
            yield client


def test_an_end_with_requests_under_way_says_how_long_it_may_take_and_how_to_cut_it(gate):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gate.configure(silent.getsockname()[1], settings="drain_timeout = 45")
        process, port = gate.run()
        with asked(gate, port, silent) as client:
            process.send_signal(signal.SIGINT)
            said = process.stdout.readline()
            assert said == (
                "it takes nobody new; requests under way: 1, for 45 s at most; "
                "a second signal cuts them\n"
            )
            process.send_signal(signal.SIGINT)
            assert b'"HF-3107"' in client.recv(10_000)
        assert end_of(process) == (130, "ended; requests cut: 1\n")


def test_a_drain_without_requests_names_no_time(gate):
    gate.configure(9)
    gate("start")
    said = gate("drain").stdout
    assert said == "gateway `main` takes nobody new; requests under way: 0\n"


def test_a_reload_that_is_refused_says_that_the_old_configuration_stays(gate):
    gate.configure(9)
    gate("start")
    gate.configure(9, settings="quee = 1")
    done = gate("reload")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: gateway `main` goes on with its old configuration:\n"
        "  `gateway.main.quee`: not known; did you mean `queue`?\n"
    )
    assert gate("status").returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_that_misses_a_variable_says_whose_environment_counts(gate, workers):
    gate.configure(9, settings=f"workers = {workers}")
    gate("start")
    gate.configure(9, settings=f"workers = {workers}", each='keys = "env:HF_TEST_LATE"')
    gate.env["HF_TEST_LATE"] = "sk-canary"
    assert gate("check").returncode == 0
    done = gate("reload")
    assert done.returncode == 2
    assert "the environment variable `HF_TEST_LATE` is not set" in done.stderr
    assert "has the environment that it was started with" in done.stderr
    assert "use `file:PATH`" in done.stderr


def test_logs_of_one_in_the_foreground_says_where_it_is(gate):
    gate.configure(9)
    process, _ = gate.run()
    done = gate("logs")
    assert done.returncode == 1
    assert f"runs in the foreground, as process {process.pid}" in done.stderr


@pytest.mark.parametrize("count", ["-5", "x", "1.5"])
def test_a_number_of_lines_that_is_none_is_refused(gate, count):
    done = gate("logs", f"--lines={count}")
    assert done.returncode == 2
    assert f"{count}: a number of lines is wanted" in done.stderr


def test_a_worker_whose_parent_was_killed_says_so(gate):
    gate.configure(9, settings="workers = 2")
    gate("start")
    workers = gate.status()["pids"]
    os.kill(gate.pid_file()["pid"], signal.SIGKILL)
    due = time.monotonic() + 20
    while any(map(is_there, workers)):
        assert time.monotonic() < due
        time.sleep(0.02)
    log = gate.log()
    for number in (1, 2):
        assert f"worker {number}: warning: the parent is gone: it takes nobody new" in log


def test_a_good_end_says_nothing_of_a_parent_that_is_gone(gate):
    gate.configure(9, settings="workers = 2")
    gate("start")
    gate("stop")
    assert "parent" not in gate.log()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gate("start", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "parent" not in gate.log()


def test_status_counts_lines_of_the_access_log_that_were_lost(gate):
    if not os.path.exists("/dev/full"):  # noqa: PTH110 - a device
        return
    gate.configure(9, settings='access_log = "/dev/full"\nattempts = 1')
    process, port = gate.run()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.recv(10_000).startswith(b"HTTP/1.1 502")
    due = time.monotonic() + 20
    while "lines of the access log that were lost: 1\n" not in gate("status").stdout:
        assert time.monotonic() < due
    process.terminate()
    assert end_of(process)[0] == 0


@contextmanager
def answering(data):
    """Give the port of a server that says the same to everybody."""

    class Same(socketserver.BaseRequestHandler):
        def handle(self):
            while self.request.recv(65536):
                self.request.sendall(data)

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Same) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def post(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(20)
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}")
        return client.recv(10_000)


def test_a_key_that_is_refused_is_a_warning_and_status_says_until_when_it_rests(gate):
    with answering(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n") as port:
        gate.env["HF_TEST_KEY"] = "sk-canary"
        gate.configure(port, each='keys = "env:HF_TEST_KEY"')
        gate("start")
        assert post(gate.pid_file()["port"]).startswith(b"HTTP/1.1 401")
        status = gate("status").stdout
    assert "a: http 401, last at " in status
    assert "; rests until " in status
    assert "Z warning: gateway[a]: a key is left out: http 401, key 0\n" in gate.log()
    assert "canary" not in gate.log() + status


def test_status_says_how_an_endpoint_failed_last_though_it_is_healthy(gate):
    with answering(b"HTTP/1.1 200 X\r\nContent-Length: nonsense\r\n\r\n") as port:
        gate.configure(port, settings="attempts = 1")
        gate("start")
        assert post(gate.pid_file()["port"]).startswith(b"HTTP/1.1 502")
        status = gate("status").stdout
    assert "a         healthy" in status
    assert "\na: malformed: " in status


def test_a_circuit_that_opens_is_told_once(gate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    gate.configure(nobody)
    gate("start")
    for _ in range(6):
        assert post(gate.pid_file()["port"]).startswith(b"HTTP/1.1 502")
    gate("stop")
    assert gate.log().count("circuit opened: 5 failures in a row") == 1
    assert "alert" not in gate.log()
