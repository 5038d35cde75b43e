"""Gateways as real processes, told by the command; upstreams and clients are in the test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

HEAD = "http://127.0.0.1:{}"


def after(code, argv):
    """Return what runs a line of Python and then becomes `argv`, as the same process."""
    code = f"import os, resource, signal, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *argv]


def with_socket(sock, argv):
    """Return what gives a listening socket to `argv` as a service manager does."""
    fd = sock.fileno()
    keep = f"os.dup2({fd}, 3)" if fd != 3 else "os.set_inheritable(3, True)"
    names = "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))"
    return after(f"{keep}; {names}", argv)


class Commands:
    """`holdfast gateway` in a state directory and with a configuration of its own."""

    def __init__(self, path):
        self.path = path
        self.state = path / "state"
        self.file = path / "holdfast.toml"
        names = [one for one in os.environ if one.startswith("HOLDFAST_")]
        self.env = {key: value for key, value in os.environ.items() if key not in names}
        self.env["HOLDFAST_STATE_DIR"] = str(self.state)
        self.foreground = []

    def configure(self, *ports, settings="", each=""):
        """Write the file: endpoints `a`, `b`, ... at these ports."""
        ends = "".join(
            f'[[gateway.main.endpoint]]\nid = "{"abcdef"[n]}"\n'
            f'url = "{HEAD.format(port)}"\n{each}\n'
            for n, port in enumerate(ports)
        )
        self.file.write_text(f'[gateway.main]\nlisten = "127.0.0.1:0"\n{settings}\n{ends}')

    def hide(self, module):
        """Let a module be one that is not installed."""
        hidden = self.path / "hidden"
        hidden.mkdir()
        text = f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')"
        (hidden / f"{module}.py").write_text(text)
        self.env["PYTHONPATH"] = os.pathsep.join([str(hidden), self.env.get("PYTHONPATH", "")])

    def argv(self, *words):
        return [sys.executable, "-W", "error", "-m", "holdfast", "gateway", *words]

    def __call__(self, *words, timeout=30):
        """Run a command to its end."""
        return subprocess.run(
            self.argv(*words),
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def run(self, *words):
        """Run `gateway run` in the foreground; return (process, port) once it serves."""
        process = subprocess.Popen(
            self.argv("run", *words),
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.foreground.append(process)
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        return process, int(found[1])

    def status(self):
        """Return what `status --json` says."""
        return json.loads(self("status", "--json").stdout)

    def pid_file(self):
        return json.loads((self.state / "gateway-main.json").read_text())

    def log(self):
        with suppress(FileNotFoundError):
            return (self.state / "gateway-main.log").read_text()
        return ""

    def end(self):
        """End whatever was started here."""
        for process in self.foreground:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            process.stdout.close()
        if (self.state / "gateway-main.json").exists():
            self("stop", "--force")


@pytest.fixture
def gate(tmp_path):
    """Commands for one test; at its end nothing of it runs any more."""
    commands = Commands(tmp_path)
    yield commands
    commands.end()


def end_of(process, seconds=20):
    """Return the exit code and the rest of what it printed."""
    code = process.wait(seconds)
    return code, process.stdout.read()


def is_there(pid):
    """Whether a process lives; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def gone(*pids, seconds=10):
    """Wait until processes are no more."""
    due = time.monotonic() + seconds
    while any(is_there(pid) for pid in pids):
        assert time.monotonic() < due, [pid for pid in pids if is_there(pid)]
        await asyncio.sleep(0.02)


async def until(found, seconds=10):
    """Wait until `found()` is true, and return what it gives."""
    due = time.monotonic() + seconds
    while not (value := await asyncio.to_thread(found)):
        assert time.monotonic() < due
        await asyncio.sleep(0.02)
    return value


@asynccontextmanager
async def serving(handler):
    """Give the port of a server on this loop."""
    tasks = set()

    async def each(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # asyncio tells the log of a handler that was cancelled
        finally:
            writer.close()
            tasks.discard(asyncio.current_task())

    server = await asyncio.start_server(each, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0.02)


async def quick(reader, writer):
    """Answer each request at once."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nfine")


EVENT = b'data: {"n":1}\n\n'
PIECE = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n"


class Streams:
    """An upstream whose streams go on until `go`; open: how many have begun."""

    def __init__(self):
        self.go, self.open = asyncio.Event(), 0

    async def __call__(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM + PIECE)
        self.open += 1
        await self.go.wait()
        writer.write(PIECE + b"0\r\n\r\n")
        await writer.drain()
        await reader.read()


async def listen(port):
    """Ask for a stream and return all of it, framing and all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK)
    try:
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                break
            got += data
        return got
    finally:
        writer.close()


def hang_up(process):
    """Ask a process to read its configuration again."""
    process.send_signal(signal.SIGHUP)
