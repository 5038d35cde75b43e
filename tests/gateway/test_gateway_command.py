"""`holdfast gateway` with real processes: one of a name, ended well, and no stranger touched."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_process import after, end_of, gate, is_there

from holdfast.gateway.service import keep_small

__all__ = ["gate"]  # a fixture


@pytest.fixture
def stranger():
    """A process that is none of ours and must outlive the test."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    yield process
    process.stdin.close()
    assert process.wait(10) == 0


def ticks_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def plant(gate, **fields):
    """Leave a pid file of somebody else."""
    gate.state.mkdir(mode=0o700)
    said = {
        "start_ticks": 1, "host": "127.0.0.1", "port": 1, "start_time": 0, "cluster": "main",
        "version": "0", **fields,
    }  # fmt: skip
    (gate.state / "gateway-main.json").write_text(json.dumps(said))


# -- start, status, stop -----------------------------------------------------------------------


def test_start_serves_status_shows_it_and_stop_ends_it(gate):
    gate.configure(9)
    started = gate("start")
    assert (started.returncode, gate("status").returncode) == (0, 0)
    said = gate.pid_file()
    assert f"serves http://127.0.0.1:{said['port']} as process {said['pid']}" in started.stdout
    url = f"http://127.0.0.1:{said['port']}/__holdfast__/ready"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200
    stopped = gate("stop")
    assert stopped.returncode == 0
    assert f"has ended (process {said['pid']})" in stopped.stdout
    assert not is_there(said["pid"])
    assert sorted(one.name for one in gate.state.iterdir()) == ["gateway-main.log"]
    assert gate("status").returncode == 1


def test_a_second_start_names_the_process_of_the_first(gate):
    gate.configure(9)
    gate("start")
    pid = gate.pid_file()["pid"]
    for command in ("start", "run"):
        again = gate(command)
        assert again.returncode == 1
        assert f"gateway `main` runs already, as process {pid}" in again.stderr
        assert "[HF-3204]" in again.stderr
    assert is_there(pid)


def test_stop_is_done_where_nothing_runs(gate):
    gate.configure(9)
    done = gate("stop")
    assert (done.returncode, done.stdout) == (0, "gateway `main` does not run\n")


def test_a_file_of_a_dead_process_is_replaced(gate):
    gate.configure(9)
    gate("start")
    pid = gate.pid_file()["pid"]
    os.kill(pid, signal.SIGKILL)
    while is_there(pid):
        time.sleep(0.01)
    assert gate("status").returncode == 1
    assert gate("start").returncode == 0
    assert gate.pid_file()["pid"] != pid


@pytest.mark.parametrize("same_start", [True, False])
def test_a_file_with_the_number_of_a_stranger_is_replaced_and_he_is_left_alone(
    gate, stranger, same_start
):
    gate.configure(9)
    ticks = ticks_of(stranger.pid) if same_start else 1
    plant(gate, pid=stranger.pid, start_ticks=ticks)
    assert gate("status").returncode == 1
    for words in (["stop"], ["stop", "--force"]):
        assert gate(*words).stdout == "gateway `main` does not run\n"
    assert gate("start").returncode == 0
    assert gate.pid_file()["pid"] != stranger.pid
    assert gate("stop").returncode == 0
    assert stranger.poll() is None


def test_six_starts_at_once_make_one_gateway(gate):
    gate.configure(9)
    starts = [
        subprocess.Popen(
            gate.argv("start"),
            cwd=gate.path,
            env=gate.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    said = [(one.communicate(timeout=50)[1], one.returncode) for one in starts]
    assert sorted(code for _, code in said) == [0, 1, 1, 1, 1, 1]
    assert all("runs already, as process" in text for text, code in said if code)
    assert gate.status()["running"] is True


# -- run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_run_says_what_it_serves_and_ends_by_a_signal(gate, number, code):
    gate.configure(9, 10)
    process, port = gate.run()
    assert gate.pid_file()["port"] == port
    process.send_signal(number)
    found, said = end_of(process)
    assert found == code
    assert "it takes nobody new; requests under way: 0" in said
    assert "every request was answered" in said


def test_json_is_one_object_per_line(gate):
    gate.configure(9)
    process = subprocess.Popen(
        gate.argv("run", "--json"), cwd=gate.path, env=gate.env, stdout=-1, text=True
    )
    gate.foreground.append(process)
    first = json.loads(process.stdout.readline())
    assert first["event"] == "Serving"
    assert first["pid"] == process.pid
    assert first["urls"] == [f"http://127.0.0.1:{first['port']}"]
    process.terminate()
    code, said = end_of(process)
    assert code == 0
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["Draining", "Ended"]


def test_a_flag_wins_over_the_environment_over_the_file(gate):
    gate.configure(9)
    gate.env["HOLDFAST_GATEWAY_LISTEN"] = f"unix:{gate.path}/by-env"
    assert gate("start").returncode == 0
    assert gate.pid_file()["host"] == f"unix:{gate.path}/by-env"
    gate("stop")
    assert gate("start", "--listen", f"unix:{gate.path}/by-flag").returncode == 0
    assert gate.pid_file()["host"] == f"unix:{gate.path}/by-flag"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{gate.path}/by-flag")
        sock.sendall(b"GET /__holdfast__/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_name_may_begin_with_a_dash(gate):
    gate.configure(9)
    gate.file.write_text(gate.file.read_text().replace("gateway.main", "gateway.-x"))
    started = gate("start")
    assert started.returncode == 0, started.stderr
    assert "gateway `-x` serves" in started.stdout
    assert gate("stop").returncode == 0


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["start", "run", "check"])
def test_a_configuration_that_cannot_be_used_is_told_whole(gate, command):
    gate.configure(9, settings='balanc = "p2c"\nqueue = -1')
    done = gate(command)
    assert done.returncode == 2
    assert "`gateway.main.balanc`: not known; did you mean `balance`?" in done.stderr
    assert "`gateway.main.queue`" in done.stderr
    assert "[HF-3201]" in done.stderr


def test_a_port_in_use_is_said_by_start_as_by_run(gate):
    gate.configure(9)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for settings in ("", "workers = 2"):
            gate.configure(9, settings=settings)
            for command in ("start", "run"):
                done = gate(command, "--listen", listen)
                assert done.returncode == 1
                assert f"`{listen}`: the address cannot be listened at" in done.stderr
                assert f"in use, by process {os.getpid()} (" in done.stderr
                assert "[HF-3202]" in done.stderr
    assert gate("status").returncode == 1


def test_a_secret_that_is_not_there_is_named(gate):
    gate.configure(9, each='keys = "env:HF_TEST_NONE"')
    for command in ("start", "check"):
        done = gate(command)
        assert done.returncode == 2
        assert "HF_TEST_NONE" in done.stderr


@pytest.mark.parametrize("command", ["reload", "drain"])
def test_what_needs_a_gateway_says_that_none_runs(gate, command):
    gate.configure(9)
    done = gate(command)
    assert done.returncode == 1
    assert "gateway `main` does not run" in done.stderr
    assert "holdfast gateway start" in done.stderr
    assert "[HF-3205]" in done.stderr


def test_a_missing_extra_is_one_line_with_the_command(gate):
    gate.configure(9)
    gate.hide("httptools")
    done = gate("run")
    assert done.returncode == 2
    assert "needs the package `httptools`" in done.stderr
    assert "pip install 'holdfast[gateway]'" in done.stderr
    assert "Traceback" not in done.stderr


# -- reload, drain, logs, check ----------------------------------------------------------------


def test_reload_tells_what_it_did_and_a_bad_file_changes_nothing(gate):
    gate.configure(9, 10)
    gate("start")
    gate.configure(9, 11, settings="workers = 2")
    done = gate("reload")
    assert done.returncode == 0
    assert "kept: `a`; added: `b`; removed: `b`" in done.stdout
    assert "from the next start on: `workers`" in done.stdout
    gate.configure(9, settings="balance = 1")
    done = gate("reload")
    assert done.returncode == 2
    assert "gateway.main.balance" in done.stderr
    assert [one["id"] for one in gate.status()["stats"]["endpoints"]] == ["a", "b"]
    assert "the configuration was not changed" in gate.log()


def test_a_hangup_reloads_and_a_bad_file_is_said_in_the_log(gate):
    gate.configure(9)
    process, _ = gate.run()
    gate.configure(9, 10)
    process.send_signal(signal.SIGHUP)
    assert "added: `b`" in process.stdout.readline()
    gate.file.write_text("[gateway")
    process.send_signal(signal.SIGHUP)
    assert "was not changed" in process.stdout.readline()
    assert gate.status()["stats"]["total_endpoints"] == 2


def test_drain_returns_at_once_and_the_gateway_ends(gate):
    gate.configure(9)
    gate("start")
    pid = gate.pid_file()["pid"]
    done = gate("drain", "--timeout", "5")
    assert done.returncode == 0
    assert "takes nobody new; requests under way: 0" in done.stdout
    while is_there(pid):
        time.sleep(0.01)
    assert gate("status").returncode == 1


def test_logs_shows_the_last_lines_and_follows(gate):
    gate.configure(9)
    assert gate("logs").returncode == 1
    gate("start")
    gate("reload")
    assert len(gate("logs", "-n", "1").stdout.splitlines()) == 1
    assert "serves http://" in gate("logs").stdout
    following = subprocess.Popen(
        # A shell lets its background jobs ignore the signal, and they their children.
        after("signal.signal(signal.SIGINT, signal.SIG_DFL)", gate.argv("logs", "-n0", "-f")),
        cwd=gate.path,
        env=gate.env,
        stdout=-1,
        text=True,
    )
    gate.foreground.append(following)
    time.sleep(0.5)
    gate("reload")
    assert "the configuration was changed" in following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 130


def test_what_happens_to_endpoints_is_in_the_log(gate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    gate.configure(nobody)
    gate("start")
    url = f"http://127.0.0.1:{gate.pid_file()['port']}/v1/messages"
    for _ in range(6):  # a request says one thing about an endpoint, whatever it tries
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url, b"{}", timeout=10)
    gate("stop")
    assert "circuit opened" in gate("logs").stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_it_may_open_as_many_files_as_the_machine_permits(gate, workers):
    gate.configure(9, settings=f"workers = {workers}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({min(512, hard)}, {hard}))"
    started = subprocess.run(
        after(lower, gate.argv("start")),
        cwd=gate.path,
        env=gate.env,
        check=False,
        capture_output=True,
    )
    assert started.returncode == 0
    for pid in {gate.pid_file()["pid"], *gate.status()["pids"]}:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_log_that_has_grown_begins_anew(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as written:  # a process that goes on writing
        written.write(b"x" * 1000)
        keep_small(log, 1000)
        assert log.stat().st_size == 1000
        keep_small(log, 999)
        written.write(b"next\n")
    assert log.read_bytes() == b"next\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 1000


def test_what_a_log_had_is_for_its_owner_alone_and_goes_nowhere_else(tmp_path):
    log, older, other = (tmp_path / name for name in ("a.log", "a.log.1", "other"))
    log.write_bytes(b"x" * 1000)
    older.write_bytes(b"before")
    older.chmod(0o644)
    keep_small(log, 999)
    assert (older.stat().st_mode & 0o777, older.read_bytes()) == (0o600, b"x" * 1000)
    older.unlink()
    older.symlink_to(other)
    log.write_bytes(b"y" * 1000)
    keep_small(log, 999)
    assert not other.exists()
    assert log.read_bytes() == b"y" * 1000


# -- requests under way ------------------------------------------------------------------------


@contextmanager
def hanging(gate, **options):
    """Give a client whose request never gets an answer, and the gateway's process."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gate.configure(silent.getsockname()[1], **options)
        assert gate("start").returncode == 0
        said = gate.pid_file()
        with socket.create_connection(("127.0.0.1", said["port"])) as client:
            client.settimeout(20)
            client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}")
            for _ in range(40):
                if gate.status()["stats"]["inflight"] == 1:
                    break
            else:
                pytest.fail(gate.log())
            yield client, said["pid"]


def test_stop_gives_requests_their_time_and_then_cuts_them(gate):
    with hanging(gate) as (client, pid):
        began = time.monotonic()
        done = gate("stop", "--timeout", "1")
        assert done.returncode == 0
        assert "requests under way: 1; they have 1 s" in done.stderr
        assert 1 <= time.monotonic() - began < 10
        got = client.recv(10_000)
        assert got.startswith(b"HTTP/1.1 503")
        assert b'"HF-3107"' in got
        assert not is_there(pid)


def test_requests_have_their_time_though_nobody_reads_what_is_said(gate):
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        gate.configure(upstream.getsockname()[1])
        process, port = gate.run()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(20)
            client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}")
            asked, _ = upstream.accept()
            process.stdout.close()  # as `| tee log`, which dies of the same Ctrl-C
            assert gate("reload").returncode == 0
            process.send_signal(signal.SIGINT)
            while gate.status()["draining"] is not True:
                pass
            asked.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nfine")
            assert client.recv(10_000).startswith(b"HTTP/1.1 200")
            asked.close()
        assert process.wait(20) == 130


def test_a_second_stop_shortens_a_drain_and_never_lengthens_it(gate):
    with hanging(gate) as (client, pid):
        gate("drain", "--timeout", "60")
        assert json.loads(gate("drain", "--timeout", "600", "--json").stdout)["seconds"] <= 60
        assert gate("stop", "--timeout", "0.2").returncode == 0
        assert b'"HF-3107"' in client.recv(10_000)
        assert not is_there(pid)


def test_stop_by_force_cuts_at_once(gate):
    with hanging(gate) as (client, pid):
        assert gate("stop", "--force").returncode == 0
        assert client.recv(10_000).startswith(b"HTTP/1.1 503")
        assert not is_there(pid)


def test_a_gateway_that_hangs_is_killed_by_force_alone(gate):
    gate.configure(9)
    gate("start")
    pid = gate.pid_file()["pid"]
    os.kill(pid, signal.SIGSTOP)
    shown = gate("status")  # it runs, though it says nothing
    assert shown.returncode == 0
    assert "It does not answer" in shown.stderr
    assert gate("stop", "--force").returncode == 0
    assert not is_there(pid)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_while_it_starts_ends_it(gate, workers):
    gate.configure(9, settings=f"workers = {workers}")
    process = subprocess.Popen(
        gate.argv("run"), cwd=gate.path, env=gate.env, stdout=-1, stderr=-2, text=True
    )
    gate.foreground.append(process)
    while not (gate.state / "gateway-main.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    code, said = end_of(process)
    assert code in {0, -signal.SIGTERM}  # before it heeds signals there is nothing to end
    assert "Traceback" not in said
    assert gate("status").returncode == 1


def test_check_prints_addresses_and_the_worst_case(gate):
    gate.configure(9, 10, 11)
    done = gate("check")
    assert done.returncode == 0
    assert "gateway `main` can be used; it listens at 127.0.0.1:0" in done.stdout
    assert "http://127.0.0.1:9: 127.0.0.1; keys: 0" in done.stdout
    assert "attempts:     4, where every endpoint fails at once" in done.stdout
    assert "requests:     5" in done.stdout
    assert "longest:      600 s (10 min 0 s)" in done.stdout
    plan = json.loads(gate("check", "--json").stdout)["plan"]
    assert plan["attempts_max"] == 4
    assert [one["nominal"] for one in plan["delays"]] == [0, 0, 0.05]


@pytest.mark.parametrize("seconds", ["x", "-1", "nan"])
def test_a_time_that_is_none_is_refused_with_what_is_wanted(gate, seconds):
    done = gate("stop", f"--timeout={seconds}")
    assert done.returncode == 2
    assert f"--timeout: {seconds}: seconds from 0 to 86400 are wanted" in done.stderr


def test_check_fails_for_a_name_that_nobody_knows(gate):
    gate.configure(9)
    gate.file.write_text(gate.file.read_text().replace("127.0.0.1:9", "nobody.invalid:9"))
    done = gate("check")
    assert done.returncode == 1
    assert "`http://nobody.invalid:9`: the name is not known" in done.stderr
    assert "[HF-3210]" in done.stderr


@pytest.mark.parametrize(
    "verb", ["", "run", "start", "stop", "status", "reload", "drain", "logs", "check"]
)
def test_every_command_explains_itself_with_examples(gate, verb):
    done = gate(*filter(None, [verb]), "--help")
    assert done.returncode == 0
    assert "examples:\n  holdfast gateway" in done.stdout
