"""Catalogs: data sets whose files are asked for by date and variable, not by their keys.

    wanted = catalogs.plan("era5", date="202102", vars="t,u")      # pure: nothing is asked yet
    for part in wanted.parts:
        bucket = Bucket(part.source, auth="anonymous", region=part.region)
        found = catalogs.gather(part, bucket)
        ...                               # found.chosen with .path below DIR, found.failures

A plan says where to look, part by part. What is there is listed, and each key is read into its
fields; a file is taken if they are the ones that were asked for, never because a piece of its
name looks like it. What was asked for and is not there is a failure, not a silence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from holdfast.downloads.catalogs import era5
from holdfast.downloads.failures import DownloadError, Failure
from holdfast.downloads.globs import Globs
from holdfast.downloads.nearest import hint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.downloads.s3 import Bucket, Chosen
    from holdfast.downloads.s3_address import Source

NAMES = ("era5",)


class Part(Protocol):
    """One place of a plan."""

    @property
    def source(self) -> Source:
        """What is listed."""
        ...

    @property
    def region(self) -> str:
        """Where its bucket is, which saves asking for it."""
        ...

    def target(self, key: str) -> str | None:
        """Return the path below the output directory, None for a key that is not wanted."""
        ...

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return what was asked for and is not among all keys that were listed, as texts."""
        ...


class Plan(Protocol):
    """What was asked for."""

    @property
    def parts(self) -> Sequence[Part]:
        """The places where it is looked for."""
        ...


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a part brought. chosen: with their paths below the output directory."""

    chosen: tuple[Chosen, ...]
    failures: tuple[Failure, ...]


def plan(name: str, **options: str | None) -> Plan:
    """Return the plan of a catalog. Pure.

    options: of the catalog, as on the command line; None stands for one that was not given.
    Raises DownloadError (HF-1003) for what the catalog cannot have, with what is near.
    """
    if name not in NAMES:
        text = f"`--catalog {name[:40]}`: not known; {hint(name, NAMES)}"
        raise DownloadError("bad-option", text)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in era5.OPTIONS:
            text = f"`--{key}`: not an option of the catalog era5; {hint(key, era5.OPTIONS)}"
            raise DownloadError("bad-option", text)
    if "date" not in given:
        text = "the catalog era5 needs `--date` (YYYYMM, YYYYMMDD, A..B, or several with commas)"
        raise DownloadError("bad-option", text)
    return era5.plan(**given)


def gather(part: Part, bucket: Bucket) -> Gathered:
    """List a part and choose. Memory grows with the keys of the part (ERA5: 500 a month).

    A part that was interrupted is listed anew. Raises ListFailed or Interrupted.
    """
    everything = Globs()
    chosen: list[Chosen] = []
    keys: list[str] = []
    for page in bucket.pages():
        keys += [one.key for one in page.objects]
        for one in bucket.chosen(page, everything):
            path = part.target(one.key)
            if path is not None:
                chosen.append(replace(one, path=path))
    failures = [Failure("no-match", text[:500]) for text in part.missing(keys)]
    return Gathered(tuple(chosen), tuple(failures))
