"""`holdfast gateway run` and `start`."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.cli.gateway_state import source_of
from holdfast.cli.output import CliError, Console, Exit
from holdfast.core.errors import HoldfastError
from holdfast.gateway.control import Paths, Refused
from holdfast.gateway.link import encoded, refusal
from holdfast.gateway.pidfile import AlreadyRuns, BadState, PidFile, state_directory
from holdfast.gateway.service import Service
from holdfast.gateway.slots import python
from holdfast.gateway.voice import Voice, date_of
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from holdfast.gateway.pidfile import Running
    from holdfast.gateway.source import Loaded

NOT_STARTED = "HF-3207"
READY = "HOLDFAST_READY_FD"
"""For a detached gateway: the descriptor on which it says that it serves, or why it does not."""


def run(args: argparse.Namespace) -> int:
    """Serve until it is told to end."""
    with _Starter() as starter:
        loaded_from = source_of(args)
        log = None
        if starter.is_there:
            log = Paths(state_directory(), loaded_from.find_name()).log
        voice = Voice(json=args.console.json, dated=starter.is_there)
        teller = _Teller(args.console, dated=voice.dated)
        service = Service(loaded_from, teller, starter, voice=voice, log=log)
        interrupted = service.run()
    return Exit.INTERRUPTED if interrupted else Exit.DONE


class _Teller:
    """Says what happens: lines for people, or objects. dated: lines begin with the time.

    What cannot be said (the reader is gone, the disk is full) is lost; the gateway goes on.
    """

    def __init__(self, console: Console, *, dated: bool) -> None:
        self._console = console
        self._dated = dated

    def __call__(self, event: str, fields: Mapping[str, Any], text: str) -> None:
        try:
            self._say(event, fields, text)
        except BrokenPipeError:
            # Nobody reads any more (`| head`): what is in the buffer must not fail at exit.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._console.out.fileno())
            os.close(nothing)
        except OSError:
            pass  # there may be room again for the next line

    def _say(self, event: str, fields: Mapping[str, Any], text: str) -> None:
        date = f"{date_of(clock.wall())} " if self._dated else ""
        for line in text.splitlines():
            self._console.line(date + line)
        self._console.event(event, fields)


class _Starter:
    """Who started us and waits to hear that we serve; perhaps nobody."""

    def __init__(self) -> None:
        number = os.environ.pop(READY, "")
        self._fd = int(number) if number.isdigit() else -1
        if self.is_there:
            os.set_inheritable(self._fd, False)  # noqa: FBT003 - that is how it is called

    @property
    def is_there(self) -> bool:
        """Whether somebody waits."""
        return self._fd >= 0

    def __call__(self, running: Running) -> None:
        self._say({"ok": True, **asdict(running)})

    def _say(self, message: dict[str, Any]) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # it was not patient enough
                os.write(fd, encoded(message))
            os.close(fd)

    def __enter__(self) -> _Starter:  # noqa: PYI034 - nobody derives from it
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, HoldfastError):
            self._say(refusal(error))
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# -- detached --------------------------------------------------------------------------------


def start(args: argparse.Namespace) -> int:
    """Start a gateway that outlives us; return when it serves."""
    loaded = source_of(args).load()
    directory = state_directory()
    running = PidFile(directory, loaded.name).read()
    if running is not None:
        raise AlreadyRuns(loaded.name, running.pid)
    log = Paths(directory, loaded.name).log
    told = _spawn(args, loaded, log)
    if not told:
        raise CliError(
            f"gateway `{loaded.name}` ended while it was starting",
            next_step=f"See what it said: {log}",
            code=NOT_STARTED,
            exit_code=Exit.FAILED,
        )
    message = json.loads(told)
    if not message.pop("ok"):
        raise Refused(message)
    args.console.event("Started", {**message, "log": str(log)})
    url = _url(message["host"], message["port"], secure=bool(loaded.config.tls_cert))
    args.console.line(f"gateway `{loaded.name}` serves {url} as process {message['pid']}")
    args.console.note(f"  It says what happens in `{log}`.")
    return Exit.DONE


def _url(host: str, port: int, *, secure: bool) -> str:
    """Return what clients are pointed to; of a Unix socket its path is the host."""
    if not port:
        return host
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _spawn(args: argparse.Namespace, loaded: Loaded, log: Path) -> bytes:
    """Start it in a session of its own, and return what it says of its start."""
    # A value after `=` may begin with `-`.
    words = ["gateway", "run", f"--cluster={loaded.name}", f"--config={source_of(args).path}"]
    words += [f"--listen={listen}" for listen in args.listen or ()]
    if args.console.json:
        words.append("--json")
    argv, env = python("holdfast", *words)
    says = _open_log(log)
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)  # noqa: FBT003 - that is how it is called
        os.posix_spawn(
            sys.executable,
            argv,
            {**env, READY: str(writing), "PYTHONUNBUFFERED": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, says, 1),
                (os.POSIX_SPAWN_DUP2, says, 2),
            ],
            setsid=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(says)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.readline()


def _open_log(path: Path) -> int:
    """Return a descriptor for what it says. Raises BadState."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, append, 0o600)
    except OSError as error:
        raise BadState(f"`{path}`: {error.strerror}") from None
