"""What the tests of the aria2 client share: a real aria2c, a scripted service, and waiting."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest

import holdfast as hf
from holdfast.chaos import Answer, Handler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

needs_aria2c = pytest.mark.skipif(
    shutil.which("aria2c") is None, reason="aria2c is not installed (apt-get install aria2)"
)

OVER = {"complete", "error", "removed"}
MIB = 1 << 20


def on_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine function as a test, on a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """An aria2c of the test: killed and started again on the same port, ended by its pid."""

    secret = "a-secret-of-the-test-3a1f"

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._conf = directory / "aria2.conf"
        fd = os.open(self._conf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        lines = [
            "enable-rpc=true",
            f"rpc-listen-port={self.port}",
            f"rpc-secret={self.secret}",
            f"dir={directory}",
            "quiet=true",
            *options,
        ]
        os.write(fd, "\n".join(lines).encode())
        os.close(fd)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jsonrpc"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["aria2c", f"--conf-path={self._conf}", f"--stop-with-process={os.getpid()}"],
            stdin=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def client(self, **options: Any) -> hf.Aria2Client:
        options.setdefault("secret", self.secret)
        options.setdefault("retry_delay", 0.05)
        options.setdefault("journal", self.directory / "client.db")
        return hf.Aria2Client(self.url, **options)


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until the condition holds; real time, since aria2c has no other."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


async def ended(client: hf.Aria2Client, *gids: str, seconds: float = 20.0) -> list[Any]:
    """Wait until these are over, and return their progress."""
    await until(lambda: all(client.get_progress(gid).status in OVER for gid in gids), seconds)
    return [client.get_progress(gid) for gid in gids]


def asked(server: hf.chaos.Server, path: str, method: str = "GET") -> list[Any]:
    """Return the log's entries of one object."""
    return [e for e in server.log if e.path == path and e.method == method]


class Fake:
    """A service that says what the test wants: for what a real one cannot be brought to do.

    It is faithful in form (JSON-RPC, texts, HTTP 400 for errors, one entry per multicall), has
    no websocket, and downloads nothing: `statuses` says what it tells of a gid.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.params: dict[str, list[Any]] = {}
        self.statuses: dict[str, dict[str, str]] = {}
        self.hang = 0.0
        self.secret = ""
        self.on_add: Callable[[str], dict[str, str]] = lambda _: {"status": "active"}

    def route(self) -> Handler:
        return Handler("/jsonrpc", self._answer)

    async def _answer(self, request: Any) -> Any:
        import json  # noqa: PLC0415 - here only

        if request.method != "POST":
            return Answer(404, {})
        if self.hang:
            await asyncio.sleep(self.hang)
        body = json.loads(request.body)
        try:
            result = self._call(body["method"], body["params"])
        except ValueError as error:
            found = {"code": 1, "message": str(error)}
            answer = hf.chaos.routes.json_answer({"id": body["id"], "error": found}, 400)
        else:
            answer = hf.chaos.routes.json_answer({"id": body["id"], "result": result})
        return answer

    def _call(self, method: str, params: list[Any]) -> Any:
        self.calls[method] += 1
        if method == "system.multicall":
            return [self._each(c["methodName"], c["params"]) for c in params[0]]
        if self.secret:
            if params[:1] != [f"token:{self.secret}"]:
                raise ValueError("Unauthorized")
            params = params[1:]
        self.params.setdefault(method, []).append(params)
        name = method.removeprefix("aria2.")
        return getattr(self, f"do_{name}", lambda *_: "OK")(*params)

    def _each(self, method: str, params: list[Any]) -> Any:
        try:
            return [self._call(method, params)]
        except ValueError as error:
            return {"code": 1, "message": str(error)}

    def do_getVersion(self) -> Any:  # noqa: N802 - as in aria2
        return {"version": "1.36.0", "enabledFeatures": []}

    def do_getGlobalStat(self) -> Any:  # noqa: N802 - as in aria2
        return {"downloadSpeed": "7", "numActive": "1"}

    def do_getGlobalOption(self) -> Any:  # noqa: N802 - as in aria2
        return {"dir": "/nowhere"}

    def do_addUri(self, uris: list[str], options: dict[str, Any]) -> Any:  # noqa: N802 - as in aria2
        gid = options["gid"]
        if gid in self.statuses:
            raise ValueError("No URI to download.")
        self.statuses[gid] = self.on_add(gid) | {"gid": gid}
        return gid

    def do_tellStatus(self, gid: str, *_: Any) -> Any:  # noqa: N802 - as in aria2
        if gid not in self.statuses:
            raise ValueError(f"GID {gid} is not found")
        return self.statuses[gid]

    def do_removeDownloadResult(self, gid: str) -> Any:  # noqa: N802 - as in aria2
        if gid not in self.statuses:
            raise ValueError(f"Could not remove download result of GID#{gid}")
        del self.statuses[gid]
        return "OK"

    def do_forceRemove(self, gid: str) -> Any:  # noqa: N802 - as in aria2
        if self.statuses.get(gid, {}).get("status") not in {"active", "waiting", "paused"}:
            raise ValueError(f"Active Download not found for GID#{gid}")
        self.statuses[gid]["status"] = "removed"
        return gid

    def do_tellActive(self, *_: Any) -> Any:  # noqa: N802 - as in aria2
        return [s for s in self.statuses.values() if s["status"] == "active"]

    def do_tellWaiting(self, *_: Any) -> Any:  # noqa: N802 - as in aria2
        return [s for s in self.statuses.values() if s["status"] in {"waiting", "paused"}]

    def do_tellStopped(self, *_: Any) -> Any:  # noqa: N802 - as in aria2
        return [s for s in self.statuses.values() if s["status"] in OVER]
