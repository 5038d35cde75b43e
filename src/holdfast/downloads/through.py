"""`via=`: which aria2 service fetches for `Downloads`, checked when it is named, opened per run.

aria2://HOST:PORT    a service that runs there; on another machine its files are not ours
aria2://local        one that is started for the run and ends with it
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.downloads.attended import attended
from holdfast.downloads.failures import DownloadError
from holdfast.downloads.fetch import Fetch
from holdfast.telemetry.secret import Secret
from holdfast.wire.urls import BadUrl, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SCHEME = "aria2://"
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Way:
    """How the items of one run are fetched.

    maker: makes what brings an item to its end.  seen: whether we see the files.
    """

    maker: Callable[..., Fetch] = Fetch
    seen: bool = True


@dataclass(frozen=True, slots=True)
class Through:
    """A service, by its address. attempts: of a file without progress; most: files at once."""

    address: str
    directory: str
    secret: Secret | None = field(default=None, repr=False)
    attempts: int = 8
    most: int = 8

    @classmethod
    def of(
        cls, address: str, directory: str, secret: Secret | str | None, *, attempts: int, most: int
    ) -> Through:
        """Check an address and find its secret. Raises DownloadError (HF-1003)."""
        place = address.removeprefix(SCHEME)
        if place == address or not place:
            text = f"`via`: `{address}`: write `aria2://HOST:PORT` or `aria2://local`"
            raise DownloadError("bad-option", text)
        if "@" in place:
            text = "`via`: a secret does not belong into the address: use `--aria2-secret`"
            raise DownloadError("bad-option", text)
        if place == LOCAL and secret is not None:
            raise DownloadError("bad-option", "`aria2_secret`: aria2://local makes its own")
        if place != LOCAL:
            _check_place(place, address)
        return cls(address, directory, _found(secret), attempts, most)

    @contextmanager
    def opened(self, stopped: Callable[[], bool]) -> Iterator[Way]:
        """Open the service for a run, and look whether it is there.

        Raises Aria2Unavailable (exit code 75), Aria2AuthError, Aria2ProcessError, or
        DownloadError if the extra is missing; Interrupted once `stopped` says so.
        """
        try:
            from holdfast.downloads.aria2.via import Via  # noqa: PLC0415 - needs aiohttp
            from holdfast.downloads.by_aria2 import ByAria2  # noqa: PLC0415 - the same
        except ModuleNotFoundError as error:
            raise DownloadError(
                "missing-extra",
                f"`via`: it needs the package `{error.name}`, which is not installed",
                next_step="Install it: `pip install 'holdfast[aria2]'`.",
            ) from None
        with Via.of(
            self.address,
            self.directory,
            secret=self.secret,
            attempts=self.attempts,
            most=self.most,
        ) as via:
            attended(lambda _: via.check(), stopped=stopped)
            yield Way(partial(ByAria2, via=via), via.shared)


def _check_place(place: str, address: str) -> None:
    try:
        url = parse(f"http://{place}/")
    except BadUrl as error:
        raise DownloadError("bad-option", f"`via`: `{address}`: {error}") from None
    if url.target != "/" or place.endswith("/"):
        text = f"`via`: `{address}`: write `aria2://HOST:PORT`, and nothing behind it"
        raise DownloadError("bad-option", text)


def _found(secret: Secret | str | None) -> Secret | None:
    """Return a secret from where it is said to be. Raises DownloadError."""
    if secret is None or isinstance(secret, Secret):
        return secret
    kind, _, name = secret.partition(":")
    if kind == "env" and name:
        text = os.environ.get(name)
        if text is None:
            raise DownloadError("bad-option", f"`aria2_secret`: `{name}` is not set")
        return Secret(text)
    if kind == "file" and name:
        try:
            return Secret(Path(name).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise DownloadError("bad-option", f"`aria2_secret`: `{name}`: {why}") from None
    # What was given may be the secret itself, so it is not repeated.
    raise DownloadError("bad-option", "`aria2_secret`: write `env:NAME` or `file:PATH`")
