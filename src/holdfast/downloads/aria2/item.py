"""One download as we know it: what was asked, where it stands, what was tried."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from holdfast.downloads.aria2.model import DownloadProgress, Failure
from holdfast.downloads.aria2.states import SHOWN, SUSPENDED, State, is_open
from holdfast.downloads.failures import DownloadError
from holdfast.telemetry.redact import is_secret
from holdfast.telemetry.secret import MASK
from holdfast.wire.urls import Url, parse

if TYPE_CHECKING:
    from holdfast.transfer.validators import Validators

Option: TypeAlias = str | list[str]
KEPT_FAILURES = 50


@dataclass(frozen=True, slots=True)
class Source:
    """What is asked, with its secrets: lives in memory only.

    urls: mirrors of one object, the preferred one first.  options: aria2's, without those
    that are ours.
    """

    urls: tuple[Url, ...] = field(repr=False)
    options: Mapping[str, Option] = field(default_factory=dict, repr=False)

    @property
    def has_secrets(self) -> bool:
        """Whether the journal cannot hold all of it."""
        signed = any(url.is_signed for url in self.urls)
        return signed or self.options != public_options(self.options)

    def full(self) -> list[str]:
        """Return the addresses as aria2 gets them."""
        return [with_credentials(url) for url in self.urls]

    def canonical(self) -> list[str]:
        """Return the addresses as they may be stored and shown."""
        return [url.canonical() for url in self.urls]


@dataclass(slots=True)
class Item:
    """One download. Changed only by the supervisor, on its loop.

    gid: ours and aria2's.  path: of the finished file.  part: where aria2 writes it; the same
    as `path` if this machine does not see the service's files.
    source: None after a restart of the program, if a part of it was secret.
    overwrite: a file that has the name already may be replaced.
    held: paused by us, and aria2 need not know it; `disk`: because the disk is full.
    tries: attempts that were handed to aria2.  idle: restarts since the last progress.
    pinned: what the origin said of the object before the bytes that are kept were fetched.
    best: the most bytes that were there at a failure; more is progress.
    changes: how often the object changed meanwhile.
    """

    gid: str
    path: str
    part: str
    urls: tuple[str, ...]
    options: Mapping[str, Option]
    source: Source | None
    secret: bool = False
    overwrite: bool = False
    state: State = State.PENDING
    held: bool = False
    disk: bool = False
    tries: int = 0
    idle: int = 0
    changes: int = 0
    best: int = 0
    pinned: Validators | None = None
    code: str = ""
    message: str = ""
    total: int = 0
    completed: int = 0
    mtime: float = 0.0
    added_at: float = 0.0
    failures: tuple[Failure, ...] = ()
    # Not in the journal: they are of the moment.
    download_speed: int = 0
    upload_speed: int = 0
    num_pieces: int = 0
    connections: int = 0

    def progress(self, *, away: bool) -> DownloadProgress:
        """Return the snapshot. away: the service is."""
        status = SUSPENDED if away and is_open(self.state) else SHOWN[self.state]
        moving = status == "active"
        return DownloadProgress(
            gid=self.gid,
            status=status,
            total_length=self.total,
            completed_length=self.completed,
            download_speed=self.download_speed if moving else 0,
            upload_speed=self.upload_speed if moving else 0,
            num_pieces=self.num_pieces,
            connections=self.connections if moving else 0,
            error_code=self.code,
            error_message=self.message,
            file_path=self.path,
        )

    @property
    def has_checksum(self) -> bool:
        """Whether the content is known beforehand."""
        return bool(self.options.get("checksum"))


# -- options -----------------------------------------------------------------------------------

# What we decide: ids and names, how a resume is done, and how often is tried, since there is
# one owner of retries (aria2's own would multiply ours).
OURS = frozenset(
    {
        "gid", "dir", "out", "continue", "allow-overwrite", "auto-file-renaming", "always-resume",
        "max-tries", "retry-wait", "max-file-not-found", "use-head", "max-resume-failure-tries",
        "remove-control-file", "conditional-get", "dry-run", "parameterized-uri", "force-save",
    }
)  # fmt: skip
# What aria2 gets unless the caller says otherwise. Its own defaults wait a minute for a dead
# server, and fetch what a downloaded torrent or metalink file names.
DEFAULTS: Mapping[str, Option] = {
    "connect-timeout": "10",
    "timeout": "30",
    "follow-torrent": "false",
    "follow-metalink": "false",
}
_CREDENTIALS = frozenset({"http-user", "ftp-user", "load-cookies"})


def as_options(given: Mapping[str, object] | None) -> dict[str, Option]:
    """Return a copy of a caller's options in aria2's form: everything is text.

    Raises DownloadError (HF-1003) for a value that is no text, number, truth or list of texts.
    """
    found: dict[str, Option] = {}
    for name, value in (given or {}).items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, (str, int, float)):
            found[name] = [str(value)] if name == "header" else str(value)
        elif isinstance(value, Sequence) and all(isinstance(each, str) for each in value):
            found[name] = list(value)
        else:
            text = f"`options`: `{name}`: {type(value).__name__} is no value of aria2's"
            raise DownloadError("bad-option", text)
    return found


def options_for(item: Item, *, fresh: bool, head: bool, shared: bool) -> dict[str, Option]:
    """Return what aria2 gets for an attempt, the caller's options included.

    fresh: what is on disk does not count.  head: the origin answers a HEAD.  shared: we see
    the service's files, and have seen to it that no part is there without its control file.
    """
    given = item.source.options if item.source is not None else {}
    directory, name = split_path(item.part)
    options = {**DEFAULTS, **{name: value for name, value in given.items() if name not in OURS}}
    options |= {
        "gid": item.gid,
        "dir": directory,
        "out": name,
        "max-tries": "1",
        "allow-overwrite": "true",
        "auto-file-renaming": "false",
        "always-resume": "true",
        # With a control file aria2 resumes by it. Without one, `continue` would take the length
        # of the file for what is there: where we cannot look, it is left out.
        "continue": "true" if shared else "false",
    }
    if item.tries > 1:
        options.pop("pause", None)  # it was for the first time
    if fresh and not shared:
        options["remove-control-file"] = "true"
    if head and not fresh:
        # Else aria2 asks for the whole file first, only to learn its size.
        options["use-head"] = "true"
    return options


def public_options(options: Mapping[str, Option]) -> dict[str, Option]:
    """Return options as they may be stored and shown: values that authorise are `***`."""
    return {name: _public(name, value) for name, value in options.items()}


def _public(name: str, value: Option) -> Option:
    if name == "header":
        lines = [value] if isinstance(value, str) else value
        return [_public_line(line) for line in lines]
    if name in _CREDENTIALS or is_secret(name):
        return MASK
    if name.endswith("-proxy") and "@" in value:
        return MASK
    return value


def _public_line(line: str) -> str:
    name = line.partition(":")[0]
    return f"{name}: {MASK}" if is_secret(name.strip()) else line


def with_credentials(url: Url) -> str:
    """Return the address as aria2 gets it."""
    # The target is asked as it is; userinfo, which `full` leaves out, is given back to aria2.
    if not url.credentials:
        return url.full()
    from urllib.parse import quote  # noqa: PLC0415 - rarely needed

    user, colon, password = url.credentials.partition(":")
    userinfo = quote(user, safe="") + colon + quote(password, safe="")
    return url.full().replace("://", f"://{userinfo}@", 1)


# -- addresses -----------------------------------------------------------------------------------


def service_url(rpc_url: str) -> Url:
    """Read the address of a service. Raises BadUrl, or DownloadError for userinfo in it."""
    scheme, colon, rest = rpc_url.partition("://")
    url = parse({"ws": "http", "wss": "https"}.get(scheme.lower(), scheme) + colon + rest)
    if url.credentials:
        text = f"`rpc_url`: `{url.canonical()}`: a secret does not belong into it: use `secret=`"
        raise DownloadError("bad-option", text)
    return url


def is_here(url: Url) -> bool:
    """Whether the service is on this machine, so that we see its files."""
    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def split_path(path: str) -> tuple[str, str]:
    """Return directory and name, as aria2 wants them."""
    directory, name = posixpath.split(path)
    return directory or ".", name
