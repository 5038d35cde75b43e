"""Which addresses a download may ask: who named the URL decides, and the journal remembers it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from downloads_rig import downloads, names_in

import holdfast as hf
from holdfast.downloads.lists import Entry
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from pathlib import Path

METADATA = "http://169.254.169.254/latest/meta-data/"


def codes(report) -> list[str]:
    return [failed.code for failed in report.failed]


def test_what_the_user_typed_may_be_on_this_machine(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 1000)) as server, downloads(tmp_path) as d:
        d.add(server.url("/x"))
        assert d.run().exit_code == 0


@pytest.mark.parametrize("plane", ["threads", "asyncio"])
def test_what_somebody_else_named_may_not(tmp_path: Path, plane: str) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 1000)) as server:
        with downloads(tmp_path, plane=plane) as d:
            d.add(server.url("/x"), typed=False)
            d.add_many([Entry(server.url("/y"), typed=False)])
            report = d.run()
        assert codes(report) == ["HF-1111"] * 2
        assert server.stats.requests == 0
    assert "127.0.0.1" in report.failed[0].text
    assert "loopback" in report.failed[0].text
    assert names_in(tmp_path) == []


def test_the_journal_remembers_who_named_it(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 1000)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), typed=False)
        with downloads(tmp_path) as d:
            assert codes(d.run()) == ["HF-1111"]
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), typed=False)
            assert codes(d.run()) == ["HF-1111"]
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))  # now the user asks for it
            assert d.run().exit_code == 0


def test_what_the_user_typed_stays_typed_when_somebody_else_asks_too(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 1000)) as server, downloads(tmp_path) as d:
        assert d.add(server.url("/x")) == d.add(server.url("/x"), typed=False)
        assert d.run().exit_code == 0


def test_the_user_may_allow_it(tmp_path: Path) -> None:
    with (
        hf.chaos.server(hf.chaos.Object("/x", 1000)) as server,
        downloads(tmp_path, allow_private=True) as d,
    ):
        d.add(server.url("/x"), typed=False)
        assert d.run().exit_code == 0


def test_the_user_may_refuse_it(tmp_path: Path) -> None:
    with (
        hf.chaos.server(hf.chaos.Object("/x", 1000)) as server,
        downloads(tmp_path, allow_private=False) as d,
    ):
        d.add(server.url("/x"))
        assert codes(d.run()) == ["HF-1111"]


@pytest.mark.parametrize("allow", [None, True])
@pytest.mark.parametrize("host", ["169.254.169.254", "0xa9fea9fe", "[::ffff:169.254.169.254]"])
def test_a_metadata_service_is_never_asked(tmp_path: Path, allow: bool | None, host: str) -> None:  # noqa: FBT001 - the option's value
    with downloads(tmp_path, allow_private=allow) as d:
        d.add(f"http://{host}/latest/meta-data/", path="x")
        before = time.monotonic()
        assert codes(d.run()) == ["HF-1111"]
        assert time.monotonic() - before < 2


def test_a_redirect_to_a_metadata_service_is_not_followed(tmp_path: Path) -> None:
    with (
        hf.chaos.server(hf.chaos.Redirect("/x", METADATA)) as server,
        downloads(tmp_path, allow_private=True) as d,
    ):
        d.add(server.url("/x"))
        report = d.run()
        assert codes(report) == ["HF-1111"]
        assert server.stats.requests == 1


def test_a_redirect_on_this_machine_is_followed_for_the_user(tmp_path: Path) -> None:
    routes = (hf.chaos.Redirect("/x", "/y"), hf.chaos.Object("/y", 1000))
    with hf.chaos.server(*routes) as server, downloads(tmp_path) as d:
        d.add(server.url("/x"))
        assert d.run().exit_code == 0


def test_a_name_that_leads_to_this_machine_is_judged_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [answer])
    with downloads(tmp_path) as d:
        d.add("http://innocent.example/x", typed=False)
        report = d.run()
    assert codes(report) == ["HF-1111"]
    assert "innocent.example" in report.failed[0].text


@pytest.mark.parametrize("plane", ["threads", "asyncio"])
def test_a_resolver_that_hangs_keeps_no_stop_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plane: str
) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        asked.set()
        over.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "over")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with downloads(tmp_path, plane=plane, timeouts=Timeouts(connect=30)) as d:
            d.add("http://slow.example/x")
            stopper = threading.Thread(target=lambda: asked.wait(5) and d.stop())
            stopper.start()
            before = time.monotonic()
            report = d.run()
            stopper.join()
            assert time.monotonic() - before < 2
        assert report.exit_code == 130
    finally:
        over.set()


def test_a_resolver_that_hangs_costs_the_connect_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    try:
        with downloads(tmp_path, timeouts=Timeouts(connect=0.3), attempts=1) as d:
            d.add("http://slow.example/x")
            before = time.monotonic()
            report = d.run()
            assert time.monotonic() - before < 8
        assert codes(report) == ["HF-1103"]
    finally:
        over.set()
