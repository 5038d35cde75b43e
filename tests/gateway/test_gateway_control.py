"""The control socket: who may ask, and what becomes of what makes no sense."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from holdfast.core.errors import HoldfastError
from holdfast.gateway.control import Control, NoAnswer, Refused, tell


class Wrong(HoldfastError):
    code = "HF-3201"
    exit_code = 2
    next_step = "Do it otherwise."


async def answering(message):
    if message.get("do") == "fail":
        raise Wrong("two\nproblems")
    return {"ok": True, "heard": message}


@pytest.fixture
def path(tmp_path):
    """The address of a control server that runs beside the test."""
    where = tmp_path / ("long" * 40) / "gateway-main.sock"  # longer than an address may be
    where.parent.mkdir()
    ready, over = Future(), Future()

    async def main():
        control = Control(where, answering)
        await control.start()
        ready.set_result(None)
        await asyncio.wrap_future(over)
        await control.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, main())
        ready.result(10)
        yield where
        over.set_result(None)
        running.result(10)
    assert not where.exists()


def test_it_is_for_its_user_and_answers(path):
    assert path.stat().st_mode & 0o777 == 0o600
    assert tell(path, {"do": "it", "n": 1})["heard"] == {"do": "it", "n": 1}


def test_a_refusal_has_all_that_an_error_has(path):
    with pytest.raises(Refused, match="two\nproblems") as caught:
        tell(path, {"do": "fail"})
    error = caught.value
    assert (error.code, error.exit_code, error.next_step) == ("HF-3201", 2, "Do it otherwise.")


def test_several_questions_on_one_connection_and_nonsense_between(path):
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/proc/self/fd/{here}/{path.name}")
        with sock.makefile("rwb") as file:
            for line in (b'{"do":"a"}\n', b"no json\n", b"[1]\n", b'{"do":"b"}\n'):
                file.write(line)
            file.flush()
            answers = [json.loads(file.readline()) for _ in range(4)]
            assert [one["ok"] for one in answers] == [True, False, False, True]
            file.write(b"x" * 100_000)  # a line without an end
            file.flush()
            assert file.readline() == b""
    os.close(here)


def test_where_nobody_listens_it_is_said(tmp_path):
    with pytest.raises(NoAnswer, match="does not answer"):
        tell(tmp_path / "none.sock", {"do": "it"})


def test_a_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not(tmp_path):
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main():
        first, second = Control(path, answering), Control(path, answering)
        await first.start()
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await first.close()

    asyncio.run(main())
