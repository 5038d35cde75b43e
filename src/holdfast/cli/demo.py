"""The work of `holdfast demo`: the same jobs on the same bad network, done in two ways.

Each side has a server of its own with the same seed, so request number n of one side meets
what request number n of the other meets. Everything is measured while it happens: nothing
here knows the result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import holdfast as hf
from holdfast import chaos
from holdfast.cli import demo_files, demo_gateway
from holdfast.cli.demo_files import ARIA2, BATCH, WORKERS
from holdfast.cli.demo_result import Result
from holdfast.runtime.clock import clock
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    Done = Callable[[str, str, Result], None]
    Results = dict[str, dict[str, Result]]

TRIES: Final = 3
ATTEMPTS: Final = 6
_JOBS_AT_ONCE: Final = 12  # all of both sides
_CALL: Final = "/call"
_FILE: Final = "/data.bin"

# No environment proxy: both sides talk to the servers started here, and to nothing else.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Scenario:
    """How much work there is, and how bad the network.

    seed: of the faults.  calls: how many.  size: of the file in bytes.
    files, aria2_files: how many in the two batches.
    questions, streams: how many go to three providers, by themselves or through a gateway.
    timeout: seconds without a byte, for both sides.  pause: seconds between the tries of the
    hand-written loop.  outage: seconds after the start between which the calls' server answers
    503; retry_after: seconds that it asks to wait.
    """

    seed: int
    calls: int
    size: int
    files: int = 40
    aria2_files: int = 6
    questions: int = 300
    streams: int = 20
    timeout: float = 5.0
    pause: float = 1.0
    outage: tuple[float, float] = (1.0, 4.5)
    retry_after: int = 2

    def server(self) -> chaos.Server:
        """Return the server of one side, with its faults."""
        begin, end = self.outage
        call = chaos.Call(
            _CALL,
            seconds=0.03,
            faults=[
                chaos.Status(503, self.retry_after, since=begin, until=end),
                chaos.Reset(part="head", share=0.06),
                chaos.Fin(after_bytes=20, share=0.04),
                chaos.Stall(part="head", share=0.01),
            ],
        )
        data = chaos.Object(
            _FILE,
            self.size,
            faults=[
                chaos.Status(503, retry_after=1, skip=2, share=0.1, burst=2, limit=4),
                # Every answer is cut somewhere, most by a reset, some by a silent early end.
                chaos.Reset(mean_bytes=self.size / 4),
                chaos.Fin(mean_bytes=self.size / 8, share=0.25),
                chaos.Stall(after_bytes=16_384, skip=1, first=1),
                chaos.Replace(after_bytes=self.size * 3 // 8),
                chaos.Slow(32 << 20),
            ],
        )
        return chaos.server(
            call, data, *demo_files.objects(self.files, self.aria2_files), seed=self.seed
        )


class Side(Protocol):
    """A way to work."""

    name: str

    def call(self, url: str) -> object:
        """Return the JSON at `url`; raise if it cannot be had."""
        ...

    def download(self, url: str, into: Path) -> Path:
        """Fetch the file into a directory and return its path; raise if it cannot be had."""
        ...

    def batch(self, group: str, urls: dict[str, str], into: Path) -> dict[str, str]:
        """Fetch a batch below a directory; return path -> why it is not there, or ""."""
        ...


class Without:
    """A loop as people write it: three tries, a pause between them, a timeout.

    stopped: set when the user wants an end.
    """

    name = "without"

    def __init__(self, scenario: Scenario, stopped: Event) -> None:
        self._timeout = scenario.timeout
        self._pause = scenario.pause
        self._stopped = stopped

    def call(self, url: str) -> object:
        """Try three times."""
        for attempt in range(TRIES):
            try:
                return fetch_json(url, self._timeout)
            except (OSError, HTTPException):
                if attempt == TRIES - 1 or clock.wait(self._stopped, self._pause):
                    raise
        raise AssertionError("unreachable")

    def download(self, url: str, into: Path) -> Path:
        """Try three times, each from the start."""
        return self._fetch(url, into / "data.bin")

    def batch(self, group: str, urls: dict[str, str], into: Path) -> dict[str, str]:
        """Do the same for each file, or leave it to aria2c."""
        if group == ARIA2:
            return demo_files.by_aria2c(urls, into, self._stopped, self._timeout)
        return demo_files.by_loop(urls, into, self._fetch)

    def _fetch(self, url: str, target: Path) -> Path:
        for attempt in range(TRIES):
            try:
                with (
                    _opener.open(url, timeout=self._timeout) as response,
                    target.open("wb") as file,
                ):
                    shutil.copyfileobj(response, file)
            except (OSError, HTTPException):
                if attempt == TRIES - 1 or clock.wait(self._stopped, self._pause):
                    raise
            else:
                break
        return target


class With:
    """The same function under a policy, and `hf.Downloads` for the file."""

    name = "with holdfast"

    def __init__(self, scenario: Scenario) -> None:
        self._timeout = scenario.timeout
        self._policy = hf.policy(
            hf.Deadline(60),
            hf.Retry(ATTEMPTS, on=hf.CONNECT | hf.TRANSIENT | hf.THROTTLED | hf.TIMEOUT),
            hf.Timeout(self._timeout),
            name="demo",
        )
        self._downloads: list[hf.Downloads] = []
        self._stopped = False

    def call(self, url: str) -> object:
        """Let the policy call."""
        return self._policy.call(fetch_json, url, self._timeout)

    def download(self, url: str, into: Path) -> Path:
        """Let `Downloads` fetch it."""
        with hf.Downloads(into=into, timeouts=self._limits) as downloads:
            self._began(downloads)
            downloads.add(url, path="data.bin")
            report = downloads.run()
        if report.exit_code:
            raise OSError("; ".join([*map(str, report.failed), *report.left_why]))
        return into / "data.bin"

    def batch(self, group: str, urls: dict[str, str], into: Path) -> dict[str, str]:
        """Let `Downloads` fetch them, by itself or through aria2."""
        if group == ARIA2:
            return demo_files.by_downloads(urls, into, self._began, via="aria2://local")
        return demo_files.by_downloads(urls, into, self._began, timeouts=self._limits)

    @property
    def _limits(self) -> Timeouts:
        limit = self._timeout
        return Timeouts(connect=limit, first_byte=limit, idle=limit)

    def _began(self, downloads: hf.Downloads) -> None:
        self._downloads.append(downloads)
        if self._stopped:
            downloads.stop()

    def stop(self) -> None:
        """End the downloads that are under way; `stopped` ends the calls."""
        self._stopped = True
        for downloads in self._downloads:
            downloads.stop()


def fetch_json(url: str, timeout: float) -> object:
    """Fetch with the standard library: what both sides repeat, each in its way."""
    try:
        with _opener.open(url, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def run_calls(side: Side, server: chaos.Server, scenario: Scenario, stopped: Event) -> Result:
    """Make all calls, a few at a time, and compare every value."""

    def one(number: int) -> _End:
        if stopped.is_set():
            return _End("stopped")
        try:
            value = side.call(server.url(f"{_CALL}?id={number}"))
        except Exception as error:  # noqa: BLE001 - whatever it is, this call is not done
            return _End(_reason(error))
        right = chaos.Call.value(scenario.seed, str(number))
        return _End(wrong=not isinstance(value, dict) or value.get("value") != right)

    began = clock.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        ends = list(pool.map(one, range(scenario.calls)))
    return _result(server, {_CALL}, ends, clock.monotonic() - began)


def run_download(side: Side, server: chaos.Server, into: Path) -> Result:
    """Fetch the file and compare it with its versions."""
    began = clock.monotonic()
    try:
        path = side.download(server.url(_FILE), into)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file is not there
        end = _End(_reason(error))
    else:
        # Whole and of one version is right, whichever version; anything else is wrong.
        versions = {server.expected_sha256(_FILE, version) for version in (1, 2)}
        end = _End(wrong=_sha256(path) not in versions)
    return _result(server, {_FILE}, [end], clock.monotonic() - began)


def run_batch(side: Side, server: chaos.Server, group: str, count: int, into: Path) -> Result:
    """Fetch a batch and compare each file with its versions."""
    began = clock.monotonic()
    urls = {path: server.url(path) for path in demo_files.paths(group, count)}
    try:
        ends = side.batch(group, urls, into)
    except Exception as error:  # noqa: BLE001 - whatever it is, none of them is there
        ends = dict.fromkeys(urls, _reason(error))
    seconds = clock.monotonic() - began
    found = [_End(why, not why and _is_wrong(server, path, into)) for path, why in ends.items()]
    return _result(server, set(urls), found, seconds)


def run_gateway(
    side: Side, count: int, scenario: Scenario, stopped: Event, *, stream: bool
) -> Result:
    """Ask three flaky providers, and compare every answer."""
    held = side.name == With.name
    done = demo_gateway.run(scenario, count, held=held, stream=stream, stopped=stopped)
    return Result.of(done.ends, done.requests, done.sent, done.seconds)


def _is_wrong(server: chaos.Server, path: str, into: Path) -> bool:
    versions = {server.expected_sha256(path, version) for version in (1, 2)}
    return _sha256(into / path.lstrip("/")) not in versions


def run(scenario: Scenario, done: Done) -> Results:
    """Do all jobs on both sides, all at once; return side -> job -> result.

    done: told of each (side, job, result) as it ends, from the thread that did it.
    """
    stopped = Event()
    without, held = Without(scenario, stopped), With(scenario)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-demo-") as room,
        ThreadPoolExecutor(_JOBS_AT_ONCE) as pool,
        scenario.server() as left,
        scenario.server() as right,
    ):
        try:
            running: dict[str, dict[str, Future[Result]]] = {}
            for side, server in ((without, left), (held, right)):
                into = Path(room) / str(server.port)
                into.mkdir()
                jobs = _jobs(side, server, scenario, stopped, into)
                running[side.name] = {job: pool.submit(work) for job, work in jobs.items()}
                for job, future in running[side.name].items():
                    future.add_done_callback(partial(_tell, done, side.name, job))
            return {
                name: {job: future.result() for job, future in jobs.items()}
                for name, jobs in running.items()
            }
        finally:
            # Nothing happens here at a normal end. After Ctrl-C the work must not go on
            # behind the user's back, and the pool waits for it.
            stopped.set()
            held.stop()


def _jobs(
    side: Side, server: chaos.Server, scenario: Scenario, stopped: Event, room: Path
) -> dict[str, Callable[[], Result]]:
    """Return what one side has to do, each with a directory of its own."""
    into = {job: room / job for job in ("file", "files", "aria2")}
    for directory in into.values():
        directory.mkdir()
    jobs: dict[str, Callable[[], Result]] = {
        "calls": partial(run_calls, side, server, scenario, stopped),
        "file": partial(run_download, side, server, into["file"]),
        "files": partial(run_batch, side, server, BATCH, scenario.files, into["files"]),
    }
    if scenario.aria2_files:
        count = scenario.aria2_files
        jobs["aria2"] = partial(run_batch, side, server, ARIA2, count, into["aria2"])
    for job, count, stream in (
        ("gateway", scenario.questions, False),
        ("streams", scenario.streams, True),
    ):
        if count:
            jobs[job] = partial(run_gateway, side, count, scenario, stopped, stream=stream)
    return jobs


def _tell(done: Done, side: str, job: str, ended: Future[Result]) -> None:
    done(side, job, ended.result())


class _End(NamedTuple):
    """How one thing ended. why: it did not finish; "" if it did."""

    why: str = ""
    wrong: bool = False


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ")[:200]


def _result(server: chaos.Server, paths: set[str], ends: list[_End], seconds: float) -> Result:
    entries = [entry for entry in server.log if entry.path in paths]
    return Result.of(ends, len(entries), sum(entry.sent for entry in entries), seconds)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
