"""`hf.Aria2Process`: an aria2c of our own, which nobody else can use and which ends with us.

Its secret is made here (256 bits) and written to a file that only this user can read; it is
not among the arguments, which every user of the machine can see. It listens on loopback, and
keeps no session file: that would hold headers in clear, and would start failed downloads
behind the back of whoever supervises them.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

from holdfast.downloads.aria2.errors import Aria2ProcessError
from holdfast.downloads.aria2.item import as_options
from holdfast.downloads.failures import DownloadError
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.storage.lock import Held, ProcessLock
from holdfast.telemetry import redact
from holdfast.telemetry.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from holdfast.downloads.aria2.client import Aria2Client

START_SECONDS = 10.0
STOP_SECONDS = 5.0
LOOK_EVERY = 0.02
LOCK = ".holdfast-aria2.lock"
PORTS = 5
"""Free ports that are tried: another program may take one between our look and its use."""
RESTART_WAITS = (0.1, 1.0, 5.0, 15.0, 30.0)
"""Seconds before a restart; the first again when it has lived longer than the last of them."""

# A conf line could smuggle another option in, and these decide who may use the service.
_OURS = frozenset(
    {
        "enable-rpc", "rpc-secret", "rpc-user", "rpc-passwd", "rpc-listen-all", "rpc-listen-port",
        "rpc-allow-origin-all", "save-session", "save-session-interval", "input-file", "conf-path",
        "no-conf", "daemon", "stop-with-process", "dir", "quiet", "log",
    }
)  # fmt: skip


class Aria2Process:
    """A private aria2c, restarted when it dies.

        with hf.Aria2Process("data") as aria2:
            client = aria2.client()

    directory: where downloads go unless a path is given; made if absent. One process at a time
    uses a directory.  options: aria2's for all downloads (`max-concurrent-downloads`, ...).
    program: its name or path.

    Entering starts it; raises Aria2ProcessError if that fails, DownloadError (HF-1005) if the
    directory is in use. Leaving ends it, with a last save of what is under way. It also ends
    by itself when this process is gone.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] = ".",
        *,
        options: Mapping[str, object] | None = None,
        program: str = "aria2c",
    ) -> None:
        self.directory = os.path.abspath(os.fspath(directory))  # noqa: PTH100 - links stay
        self._options = as_options(options)
        _check(self._options, self.directory)
        self._program = program
        self._secret = Secret(rng.token(32))
        self._port = 0
        self._private = ""
        self._lock: ProcessLock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None
        self.restarts = 0

    def __repr__(self) -> str:
        return f"Aria2Process({self.directory!r}, port={self._port})"

    @property
    def rpc_url(self) -> str:
        """The address of the running service."""
        if not self._port:
            raise RuntimeError("not started yet: enter it first")
        return f"http://127.0.0.1:{self._port}/jsonrpc"

    @property
    def secret(self) -> Secret:
        """Its `rpc-secret`."""
        return self._secret

    @property
    def pid(self) -> int:
        """The process id of the running aria2c."""
        if self._process is None:
            raise RuntimeError("not started yet: enter it first")
        return self._process.pid

    def client(self, **options: Any) -> Aria2Client:
        """Return a client for it; its journal lies in the directory unless `journal=` is given."""
        from holdfast.downloads.aria2.client import Aria2Client  # noqa: PLC0415 - needs aiohttp

        options.setdefault("journal", posixpath.join(self.directory, ".holdfast-aria2.db"))
        return Aria2Client(self.rpc_url, self._secret, **options)

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._lock is not None:
            raise RuntimeError("already started")
        self._lock = self._locked()
        try:
            self._private = tempfile.mkdtemp(prefix="holdfast-aria2-")  # 0700
            self._stop.clear()
            self._start_somewhere()
        except BaseException:
            self._tidy()
            raise
        self._keeper = threading.Thread(target=self._keep, name="holdfast-aria2c", daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; a second call does nothing."""
        self._stop.set()
        keeper, self._keeper = self._keeper, None
        process = self._process
        if process is not None:
            _end(process)
        if keeper is not None:
            keeper.join(START_SECONDS + STOP_SECONDS)
        process = self._process
        if process is not None:  # one that the keeper had started just then
            _end(process)
        self._tidy()

    def _tidy(self) -> None:
        if self._private:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = ""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _locked(self) -> ProcessLock:
        try:
            os.makedirs(self.directory, exist_ok=True)  # noqa: PTH103 - text paths
            lock = ProcessLock(posixpath.join(self.directory, LOCK))
            lock.acquire()
        except Held as error:
            text = f"`{self.directory}`: another aria2c is kept there (pid: {error.pid})"
            raise DownloadError("journal-busy", text, exit_code=75) from None
        except OSError as error:
            text = f"`{self.directory}`: it cannot be used ({error.strerror})"
            raise DownloadError("bad-output", text) from None
        return lock

    def _start_somewhere(self) -> None:
        for left in reversed(range(PORTS)):
            self._port = _free_port()
            try:
                self._start()
            except Aria2ProcessError:
                if left == 0:
                    raise
            else:
                return

    def _start(self) -> None:
        """Start it on our port and return when it listens. Raises Aria2ProcessError."""
        conf = posixpath.join(self._private, "aria2.conf")
        _write_private(conf, self._conf())
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                    [self._program, f"--conf-path={conf}", f"--stop-with-process={os.getpid()}"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    start_new_session=True,  # a Ctrl-C is for us: we end it in order
                )
            except OSError as error:
                text = f"`{self._program}`: it cannot be started ({error.strerror})"
                raise Aria2ProcessError(text) from None
            if not self._listens(process):
                _end(process)
                output.seek(0)
                said = redact.text(output.read(2000).decode("utf-8", "replace")).strip()
                text = f"`{self._program}`: it does not listen (exit code: {process.returncode})"
                raise Aria2ProcessError(f"{text}: {said[:500]}" if said else text)
        self._process = process

    def _listens(self, process: subprocess.Popen[bytes]) -> bool:
        until = clock.monotonic() + START_SECONDS
        while process.poll() is None and clock.monotonic() < until and not self._stop.is_set():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                # Another program could have taken the port; then ours ends at once.
                return process.poll() is None
            clock.sleep(LOOK_EVERY)
        return False

    def _conf(self) -> str:
        settings = {
            "file-allocation": "falloc",
            **{k: v for k, v in self._options.items() if isinstance(v, str)},
            "enable-rpc": "true",
            "rpc-listen-all": "false",
            "rpc-listen-port": str(self._port),
            "rpc-secret": self._secret.reveal(),
            "rpc-allow-origin-all": "false",
            "auto-save-interval": "1",
            "dir": self.directory,
            "quiet": "true",
            "no-netrc": "true",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    # -- when it dies ------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Start it again whenever it has ended, until asked to stop."""
        tried = 0
        while True:
            process = self._process
            began = clock.monotonic()
            if process is not None:
                process.wait()
            if clock.monotonic() - began > RESTART_WAITS[-1]:
                tried = 0
            if clock.wait(self._stop, RESTART_WAITS[min(tried, len(RESTART_WAITS) - 1)]):
                return
            tried += 1
            with contextlib.suppress(Aria2ProcessError):  # the next turn tries again
                self._start()
                self.restarts += 1


def _check(options: Mapping[str, object], directory: str) -> None:
    for name, value in options.items():
        if name in _OURS:
            raise DownloadError("bad-option", f"`options`: `{name}`: it is decided by us")
        if not isinstance(value, str) or any(c in f"{name}{value}" for c in "\r\n\0"):
            raise DownloadError("bad-option", f"`options`: `{name}`: it must be one line of text")
    if any(c in directory for c in "\r\n\0"):
        raise DownloadError("bad-output", "`directory`: its name holds a line break")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it in order (it saves its control files), or else at once."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
