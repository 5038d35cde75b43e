"""The access log: exact fields, written beside the loop, bounded, and it shows no secret."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import logging
import signal
import subprocess
import sys
import threading
from datetime import datetime
from urllib.parse import quote

import pytest
import uvloop
from gateway_process import end_of, gate, quick, serving
from gateway_rig import always, answer, ask, gateway, hangs, in_turn, reset
from gateway_telling import get, runs, until

import holdfast as hf
from holdfast.gateway import access_log
from holdfast.gateway.access_log import AccessLog
from holdfast.gateway.gateway import ConfigError, Gateway
from holdfast.gateway.ledger import Ledger
from holdfast.gateway.log_line import note_of
from holdfast.wire.requests import RequestHead

__all__ = ["gate"]  # a fixture

FIELDS = [
    "ts", "id", "client", "method", "path", "status", "bytes_in", "bytes_out", "ms", "ttfb_ms",
    "endpoint", "attempts", "outcome", "tier",
]  # fmt: skip


def logging_to(path, more=""):
    return f'access_log = "{path}"\n{more}'


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@runs
async def test_a_line_has_exactly_the_fields_and_says_what_happened(path):
    scripts = (in_turn(answer(503), answer(200, b"fine")),)
    async with gateway(*scripts, settings=logging_to(path)) as (gw, _):
        status, head, _ = await ask(gw.port, "POST", "/v1/messages?beta=true", b'{"a": 1}')
        assert status == 200
    (line,) = lines_of(path)
    assert list(line) == FIELDS
    assert datetime.fromisoformat(line["ts"]).tzinfo is not None
    assert f"x-holdfast-request: {line['id']}" in head
    assert (line["client"], line["method"], line["path"]) == ("127.0.0.1", "POST", "/v1/messages")
    assert (line["status"], line["outcome"], line["endpoint"]) == (200, "ok", "a")
    assert line["bytes_in"] == 8
    assert line["bytes_out"] == len(head.encode()) + 4
    assert 0 < line["ttfb_ms"] <= line["ms"]
    assert line["tier"] in {"healthy", "degraded"}
    first, second = line["attempts"]
    assert set(first) == set(second) == {"endpoint", "verdict", "sent", "ms"}
    assert (first["verdict"], first["sent"]) == ("http 503", "yes")
    assert (second["verdict"], second["sent"]) == ("ok", "yes")


@runs
async def test_each_end_of_a_request_has_its_line(path):
    async def script(upstream, no, writer):
        if no <= 2:
            writer.write(answer(404 if no == 1 else 501))
            return True
        if no == 3:
            await asyncio.sleep(5)
        reset(writer)
        return False

    async with gateway(script, settings=logging_to(path, "attempts = 1")) as (gw, (up,)):
        for _ in range(2):
            await ask(gw.port)
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n{}")
        await until(lambda: len(up.asked) == 3)
        writer.transport.abort()
        await until(lambda: gw.cluster.ledger.cancelled)
        assert (await ask(gw.port))[0] == 502
    found = [(line["status"], line["outcome"]) for line in lines_of(path)]
    assert found == [
        (404, "client_error"),
        (501, "upstream_error"),
        (None, "cancelled"),
        (502, "refused"),
    ]
    assert [len(line["attempts"]) for line in lines_of(path)] == [1, 1, 1, 1]


@runs
async def test_without_it_nothing_is_written_and_no_thread_runs(tmp_path):
    async with gateway(always(answer())) as (gw, _):
        await ask(gw.port)
        assert gw.cluster.ledger.log is None
    assert not list(tmp_path.iterdir())


@runs
async def test_a_share_of_the_requests_is_enough(path):
    more = "access_log_sample = 0.25"
    async with gateway(always(answer()), settings=logging_to(path, more)) as (gw, _):
        keep = await asyncio.open_connection("127.0.0.1", gw.port)
        for _ in range(400):
            await ask(gw.port, keep=keep)
        keep[1].close()
    assert 50 < len(lines_of(path)) < 160


@runs
async def test_lines_come_within_two_seconds_and_not_at_once(path):
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        await ask(gw.port)
        assert not path.exists()
        await until(path.exists, 2.0)
        assert len(lines_of(path)) == 1


@runs
async def test_to_stderr(capfd):
    async with gateway(always(answer()), settings=logging_to("stderr")) as (gw, _):
        await ask(gw.port)
    lines = capfd.readouterr().err.splitlines()
    assert [json.loads(line)["status"] for line in lines if line.startswith("{")] == [200]


@runs
async def test_a_full_disk_loses_lines_counts_them_says_it_once_and_no_request_fails():
    heard = []
    stop = hf.subscribe(heard.append)
    try:
        async with gateway(always(answer()), settings=logging_to("/dev/full")) as (gw, _):
            for _ in range(3):
                for _ in range(2):
                    assert (await ask(gw.port))[0] == 200
                gw.cluster.ledger.log._flush()
                dropped = gw.cluster.ledger.lines_dropped
                await until(lambda dropped=dropped: gw.cluster.ledger.lines_dropped > dropped)
            assert gw.cluster.ledger.lines_dropped == 6
            stats = json.loads((await get(gw.port, "/__holdfast__/stats"))[2])
            assert stats["access_log_dropped"] == 6
            _, _, metrics = await get(gw.port, "/__holdfast__/metrics")
            assert b"holdfast_gateway_log_lines_dropped_total 6.0" in metrics
    finally:
        stop()
    alerts = [one for one in heard if type(one).__name__ == "Alert"]
    assert [(one.name, one.cleared) for one in alerts] == [("access_log", False)]
    assert "No space left" in alerts[0].text


@runs
async def test_when_lines_are_written_again_the_alert_is_over(path):
    heard = []
    stop = hf.subscribe(heard.append)
    try:
        async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
            path.mkdir()
            await ask(gw.port)
            await until(lambda: gw.cluster.ledger.lines_dropped == 1)
            path.rmdir()
            await ask(gw.port)
            await until(lambda: len(heard) >= 2)
    finally:
        stop()
    assert [one.cleared for one in heard if type(one).__name__ == "Alert"] == [False, True]
    assert len(lines_of(path)) == 1


@runs
async def test_what_waits_is_bounded(monkeypatch, path):
    monkeypatch.setattr(access_log, "MAX_LINES", 5)
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        for _ in range(8):
            await ask(gw.port)
        assert gw.cluster.ledger.lines_dropped == 3
    assert len(lines_of(path)) == 5


@runs
async def test_a_reload_moves_the_log_or_leaves_it_where_it_is(path):
    other = path.with_name("other.log")
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        ledger, log = gw.cluster.ledger, gw.cluster.ledger.log
        await ask(gw.port)
        gw.use(dataclasses.replace(gw.config, access_log_sample=0.0))
        assert gw.cluster.ledger.log is log
        await ask(gw.port)
        gw.use(dataclasses.replace(gw.config, access_log_sample=1.0, access_log=str(other)))
        await until(lambda: path.exists() and len(lines_of(path)) == 1)
        await ask(gw.port)
        gw.use(dataclasses.replace(gw.config, access_log="off"))
        await until(lambda: other.exists() and len(lines_of(other)) == 1)
        await ask(gw.port)
        assert gw.cluster.ledger is ledger
        assert ledger.log is None
        assert ledger.requests == 4
    assert (len(lines_of(path)), len(lines_of(other))) == (1, 1)


@runs
async def test_a_request_that_began_before_a_reload_is_in_the_new_log(path):
    go = asyncio.Event()

    async def script(upstream, no, writer):
        await go.wait()
        writer.write(answer())

    async with gateway(script) as (gw, (up,)):
        asking = asyncio.create_task(ask(gw.port))
        await up.asked_first.wait()
        gw.use(dataclasses.replace(gw.config, access_log=str(path)))
        go.set()
        await asking
    (line,) = lines_of(path)
    assert (line["status"], line["outcome"]) == (200, "ok")


@pytest.mark.parametrize(
    ("where", "why"),
    [("", "it is a directory"), ("none/access.log", "there is no directory `")],
)
@runs
async def test_a_place_where_nothing_can_be_written_is_told_at_the_start(tmp_path, where, why):
    config = hf.Gateway(endpoints="http://127.0.0.1:9", access_log=str(tmp_path / where)).config
    with pytest.raises(ConfigError, match=why) as told:
        await Gateway(dataclasses.replace(config, client_tokens=("env:NOT_THERE",))).start()
    # All that is wrong is told at once.
    assert sorted(one.path for one in told.value.problems) == ["access_log", "env:NOT_THERE"]


@runs
async def test_a_reload_to_such_a_place_changes_nothing(path):
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        with pytest.raises(ConfigError):
            await gw.reload(dataclasses.replace(gw.config, access_log=str(path / "below")))
        await ask(gw.port)
    assert len(lines_of(path)) == 1


@runs
async def test_several_processes_may_write_one_file(path):
    """Each has its own buffer and its own descriptor; lines stay whole."""
    both = logging_to(path)
    async with (
        gateway(always(answer()), settings=both) as (one, _),
        gateway(always(answer()), settings=both) as (two, _),
    ):
        for _ in range(20):
            await asyncio.gather(ask(one.port), ask(two.port))
    lines = lines_of(path)
    assert len(lines) == 40
    assert len({line["id"].split("-")[0] for line in lines}) == 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_is_under_way_at_the_end_has_its_line(path, loop):
    async def main():
        async with gateway(hangs, settings=logging_to(path)) as (gw, (up,)):
            _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: gw\r\n\r\n")
            await up.asked_first.wait()
        assert gw.cluster.ledger.in_flight == 0
        writer.close()

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))
    (line,) = lines_of(path)
    assert (line["outcome"], line["status"], line["client"]) == ("cancelled", None, "127.0.0.1")


@runs
async def test_what_no_endpoint_saw_has_its_line_too(path):
    more = 'count_tokens = "local"'
    async with gateway(always(answer()), settings=logging_to(path, more)) as (gw, _):
        await ask(gw.port, "POST", "/v1/messages/count_tokens", b"{}")
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"GET /no-host HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        await get(gw.port, "/__holdfast__/stats")
    counted, malformed = lines_of(path)
    assert list(counted) == list(malformed) == FIELDS
    assert (counted["status"], counted["outcome"]) == (200, "ok")
    assert (counted["path"], counted["endpoint"]) == ("/v1/messages/count_tokens", None)
    assert (malformed["status"], malformed["outcome"]) == (400, "refused")
    assert (malformed["path"], malformed["client"]) == ("", "127.0.0.1")


@runs
async def test_who_has_no_token_is_in_the_log_with_what_was_asked(path, monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", "token-of-a-client")
    settings = logging_to(path, 'client_tokens = ["env:GATEWAY_TOKEN"]')
    async with gateway(always(answer()), settings=settings) as (gw, _):
        keep = await asyncio.open_connection("127.0.0.1", gw.port)
        assert (await ask(gw.port, "POST", "/v1/messages?key=wrong"))[0] == 401
        right = "x-api-key: token-of-a-client"
        assert (await ask(gw.port, "POST", "/first", b"{}", right, keep=keep))[0] == 200
        keep[1].write(b"nonsense\r\n\r\n")
        assert (await keep[0].readline()).startswith(b"HTTP/1.1 400")
        keep[1].close()
    found = [(line["method"], line["path"], line["status"]) for line in lines_of(path)]
    assert found == [("POST", "/v1/messages", 401), ("POST", "/first", 200), ("", "", 400)]


@runs
async def test_a_request_whose_body_goes_wrong_has_one_line_and_one_refusal(path):
    async with gateway(hangs, settings=logging_to(path)) as (gw, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"POST /x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):  # large, so that it is sent on as it comes
            writer.write(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
            await writer.drain()
        await until(lambda: gw.cluster.ledger.requests)
        writer.write(b"nonsense\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        await until(lambda: not gw.cluster.ledger.in_flight)
        found = json.loads((await get(gw.port, "/__holdfast__/stats"))[2])
        assert (found["total_requests"], found["cancelled_requests"]) == (1, 1)
        assert (found["failed_requests"], found["refused"]) == (0, {"HF-3001": 1})
    (line,) = lines_of(path)
    assert (line["status"], line["outcome"], line["endpoint"]) == (400, "cancelled", "a")


@runs
async def test_workers_write_one_file_and_are_measured_as_one(path, gate):
    async with serving(quick) as up:
        gate.configure(up, settings=logging_to(path, "workers = 2"))
        process, port = await asyncio.to_thread(gate.run)
        answers = await asyncio.gather(*(ask(port) for _ in range(60)))
        assert [status for status, _, _ in answers] == [200] * 60
        await asyncio.sleep(1.2)  # what a worker knows of the other one is a second old at most
        _, _, metrics = await get(port, "/__holdfast__/metrics")
        assert b'holdfast_gateway_requests_total{endpoint="a",outcome="ok"} 60.0' in metrics
        assert b"holdfast_gateway_duration_seconds_count 60" in metrics
        assert b"holdfast_gateway_workers 2.0" in metrics
        process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(end_of, process))[0] == 0
    lines = lines_of(path)
    assert sorted(line["status"] for line in lines) == [200] * 60
    assert len({line["id"] for line in lines}) == 60
    assert len({line["id"].split("-")[0] for line in lines}) == 2


def line(target):
    head = RequestHead(b"GET", target, 1)
    return note_of(head, 200, "ok", client="::1", size=10)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?key=sk-secret", "/a"),
        (b"/a\x1b[31m", "/a\\x1b[31m"),
        (b"/\xff\xfe", "/\\xff\\xfe"),
        (b"/" + b"x" * 5000, "/" + "x" * 1023),
        ("/ä".encode(), "/ä"),
    ],
)
def test_a_path_is_shown_on_one_line_without_its_query(target, path):
    assert line(target).count(b"\n") == 1
    assert json.loads(line(target))["path"] == path


def test_what_was_never_given_has_no_first_byte():
    assert json.loads(line(b"/"))["ttfb_ms"] is None


@runs
async def test_a_disk_that_hangs_holds_nobody_up(path, monkeypatch):
    """What is being written is waited for, but only at the end, and only for a moment."""
    monkeypatch.setattr(access_log, "CLOSE_SECONDS", 0.05)
    go = threading.Event()
    log = AccessLog(str(path), asyncio.get_running_loop(), Ledger())
    write = log._write
    monkeypatch.setattr(log, "_write", lambda lines: (go.wait(5), write(lines))[1])
    log._add(line(b"/1"))
    log._flush()
    for number in range(3):
        log._add(line(b"/%d" % number))
        log._flush()  # the thread is busy: what comes waits
    assert len(log._waiting) == 3
    started = asyncio.get_running_loop().time()
    log.close()
    assert asyncio.get_running_loop().time() - started < 1
    assert log.ledger.lines_dropped == 3
    go.set()


@runs
async def test_a_disk_that_hangs_holds_up_no_reload(path, monkeypatch):
    go = threading.Event()
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        await ask(gw.port)
        log = gw.cluster.ledger.log
        write = log._write
        monkeypatch.setattr(log, "_write", lambda lines: (go.wait(5), write(lines))[1])
        started = asyncio.get_running_loop().time()
        gw.use(dataclasses.replace(gw.config, access_log="off"))
        assert asyncio.get_running_loop().time() - started < 1
        assert not path.exists()
        go.set()
        await until(lambda: path.exists() and len(lines_of(path)) == 1)
        assert gw.cluster.ledger.lines_dropped == 0


HANGS = """
import asyncio, sys, threading
from holdfast.gateway import access_log
from holdfast.gateway.ledger import Ledger

async def main():
    access_log.CLOSE_SECONDS = 0.05
    log = access_log.AccessLog(sys.argv[1], asyncio.get_running_loop(), Ledger())
    log._write = lambda entries: threading.Event().wait()
    log.close()

asyncio.run(main())
"""


def test_a_process_ends_though_a_write_hangs(path):
    assert (
        subprocess.run([sys.executable, "-c", HANGS, path], check=False, timeout=20).returncode == 0
    )


@runs
async def test_a_key_that_a_reload_adds_is_hidden_in_a_path_that_was_seen_before(path, monkeypatch):
    secret = "plainwordsofakey42"  # no shape of a key: only that it is known hides it
    monkeypatch.setenv("GATEWAY_KEY", secret)
    async with gateway(always(answer()), settings=logging_to(path)) as (gw, _):
        for _ in range(2):
            await ask(gw.port, "GET", f"/{secret}")
            gw.cluster.ledger.log._flush()
            await until(path.exists)
            endpoint = dataclasses.replace(gw.config.endpoint[0], keys=("env:GATEWAY_KEY",))
            gw.use(dataclasses.replace(gw.config, endpoint=(endpoint,)))
    before, after = lines_of(path)
    assert (before["path"], after["path"]) == (f"/{secret}", "/***")


# -- the canary --------------------------------------------------------------------------------

CANARY = "CANARY/q7Zx+4410=value"
FORMS = [
    CANARY,
    quote(CANARY),
    quote(CANARY, safe=""),
    *[base64.b64encode(user + CANARY.encode()).decode()[4:-4] for user in (b"", b"u", b"us")],
]


async def echoes(upstream, no, writer):
    """Say back, in an error, all that was sent: head, key and body."""
    _, head, body = upstream.asked[-1]
    said = json.dumps({"error": {"message": head + body.decode()}}).encode()
    if no % 3 == 0:
        writer.write(f"HTTP/1.1 200 {CANARY}\r\nContent-Length: 5, 6\r\n\r\n".encode())
        return False
    writer.write(answer(500 if no % 3 else 403, said, f"Set-Cookie: session={CANARY}"))
    return True


@runs
async def test_no_secret_is_shown_anywhere(path, monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", f"key-{CANARY}")
    monkeypatch.setenv("GATEWAY_TOKEN", f"token-{CANARY}")
    stream, heard = io.StringIO(), []
    logger = logging.Logger("canary", logging.DEBUG)  # noqa: LOG001 - of its own
    logger.addHandler(logging.StreamHandler(stream))
    stops = [hf.telemetry.log_to(logger), hf.subscribe(lambda event: heard.append(repr(event)))]
    settings = logging_to(path, 'client_tokens = ["env:GATEWAY_TOKEN"]\nmax_wait = 0.1')
    each = f'keys = ["env:GATEWAY_KEY"]\nheaders = {{"X-Relay-Token" = "field-{CANARY}"}}'
    secret = [
        f"Authorization: Bearer token-{CANARY}",
        f"Cookie: session={CANARY}",
        f"X-Custom-Token: {CANARY}",
        f"Referer: https://user:{quote(CANARY, safe='')}@h.example/?token={quote(CANARY, safe='')}",
    ]
    shown = []
    try:
        async with gateway(echoes, echoes, settings=settings, each=each) as (gw, ups):
            for number in range(8):
                target = f"/v1/messages?api_key={quote(CANARY, safe='')}&n={number}"
                body = json.dumps({"prompt": CANARY, "password": CANARY}).encode()
                await ask(gw.port, "POST", target, body, *secret)
            wrong = [f"x-api-key: {CANARY}", *secret[1:]]
            shown.append((await ask(gw.port, "POST", "/v1/messages", b"{}", *wrong))[1:])
            shown += [
                await get(gw.port, f"/__holdfast__/{page}", *secret[:1])
                for page in ("stats", "metrics", "ready", f"nope?token={CANARY}")
            ]
            shown.append(repr(gw.cluster.ledger.accounts["a"].last_error))
            shown.append(repr(gw.config))
            for whose in ("key", "token", "field"):
                shown.append(hf.telemetry.redact.visible(f"an error of others: {whose}-{CANARY}"))
            assert any(CANARY in head for up in ups for _, head, _ in up.asked)
    finally:
        for stop in stops:
            stop()
    everything = "\n".join([path.read_text(), stream.getvalue(), *heard, *map(repr, shown)])
    assert "http 500" in everything
    assert len(lines_of(path)) >= 8
    assert [form for form in FORMS if form in everything] == []
