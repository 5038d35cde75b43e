"""What `holdfast get` was asked for: checked before anything is written, then journaled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli.get_options import WORDS, is_bucket
from holdfast.downloads import catalogs
from holdfast.downloads.failures import DownloadError
from holdfast.downloads.globs import Globs
from holdfast.downloads.s3_address import parse_source
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from holdfast.cli.progress import Display
    from holdfast.downloads.downloads import Downloads


@dataclass(frozen=True, slots=True)
class Sources:
    """All that is to be fetched, in groups.

    urls, buckets, lists: as typed.  catalog: its name, `options` its own.
    """

    urls: tuple[str, ...]
    buckets: tuple[str, ...]
    lists: tuple[str, ...]
    catalog: str | None
    options: dict[str, str | None]
    rules: Globs

    def __bool__(self) -> bool:
        return bool(self.urls or self.buckets or self.lists or self.catalog)


def of(args: argparse.Namespace) -> Sources:
    """Return the sources of a command. Raises BadUrl or DownloadError before anything is done."""
    typed = [] if args.sources[:1] and args.sources[0] in WORDS else args.sources
    sources = Sources(
        urls=tuple(one for one in typed if not is_bucket(one)),
        buckets=tuple(one for one in typed if is_bucket(one)),
        lists=tuple(args.input),
        catalog=args.catalog,
        options={"date": args.date, "vars": args.vars, "product": args.product},
        rules=Globs(tuple(args.globs or ())),
    )
    for url in sources.urls:
        parse(url)
    for bucket in sources.buckets:
        parse_source(bucket)
    if sources.catalog is not None:
        catalogs.plan(sources.catalog, **sources.options)
    for path in sources.lists:
        if path != "-" and not os.access(path, os.R_OK):
            text = f"`{path}`: the list cannot be read"
            raise DownloadError("bad-list", text, next_step="Check its path and its rights.")
    if len(sources.lists) != len(set(sources.lists)):
        raise DownloadError("bad-option", "`-i`: the same list twice")
    return sources


def gather(
    downloads: Downloads,
    sources: Sources,
    display: Display,
    args: argparse.Namespace,
    stopped: Callable[[], bool],
) -> None:
    """Put all of it into the journal; stop between two sources if that was asked.

    Lists go first: one that is refused then leaves nothing behind.
    """
    for path in sources.lists:
        display.listing(f"reading {path}")
        downloads.add_list(path, skip_bad=args.skip_bad_lines)
    for url in sources.urls:
        downloads.add(url, sha256=args.sha256, md5=args.md5)
    for bucket in sources.buckets:
        if stopped():
            return
        display.listing(f"listing {bucket}")
        downloads.add_s3(
            bucket,
            rules=sources.rules,
            auth=args.s3_auth or "auto",
            endpoint=args.s3_endpoint,
            region=args.s3_region,
            requester_pays=args.s3_requester_pays,
        )
    if sources.catalog is not None and not stopped():
        display.listing(f"listing {sources.catalog}")
        downloads.add_catalog(
            sources.catalog,
            auth=args.s3_auth or "anonymous",
            endpoint=args.s3_endpoint,
            region=args.s3_region,
            **sources.options,
        )
    display.listing("")
