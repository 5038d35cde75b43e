"""The options of `holdfast get`, in groups, and what of them goes together."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from holdfast.downloads.failures import DownloadError
from holdfast.transfer.plane import Timeouts
from holdfast.transfer.wanted import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORDS = ("status", "retry-failed")
"""In place of a source: what `get` does with the journal of a directory."""

USAGE = """\
holdfast get SOURCE... [-o DIR] [options]
       holdfast get status [-o DIR]
       holdfast get retry-failed [-o DIR] [options]"""

EXAMPLES = """\
examples:
  holdfast get https://example.org/data.nc
  holdfast get https://example.org/data.nc --sha256 9f86d081884c7d65...
  holdfast get -i files.txt -o data --workers 16
  holdfast get s3://bucket/2021/ -o data --include '*.nc' --exclude 'old/**'
  holdfast get --catalog era5 --date 202102 --vars t,u -o era5 --dry-run
  holdfast get -o data              go on with what is unfinished in data
  holdfast get status -o data       what is open or failed, and why
  holdfast get retry-failed -o data

After an interruption, a crash or a power cut the same command goes on where it
stopped. Exit codes: 0 all done or there already, 1 some failed, 2 usage, plan
or space, 3 stopped with work left (disk full, time is up, a signed address is
needed), 75 try again later, 130 interrupted.
"""


class _Glob(argparse.Action):
    """Keeps `--include` and `--exclude` in one list: the last that matches decides."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - the asked signature
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        kind = str(option_string).lstrip("-")
        namespace.globs = [*(namespace.globs or ()), (kind, str(values))]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `holdfast get`."""
    parser.usage = USAGE
    parser.description = (
        "Download files. A file gets its name when it is whole, of one version, and\n"
        "verified as far as its source permits; until then it is a hidden part file."
    )
    parser.epilog = EXAMPLES
    parser.set_defaults(parser=parser)
    _sources(parser)
    _files(parser)
    _contents(parser)
    _pace(parser)
    _machine(parser)
    _aria2(parser)


def _group(parser: argparse.ArgumentParser, title: str) -> Callable[..., argparse.Action]:
    return parser.add_argument_group(title).add_argument


def _sources(parser: argparse.ArgumentParser) -> None:
    add = _group(parser, "what to fetch (sources may be mixed)")
    text = "http(s) address, s3://bucket/prefix, or one of the words above"
    add("sources", nargs="*", metavar="SOURCE", help=text)
    text = "a file of URLs, one per line, or JSON lines; - is standard input"
    add("-i", "--input", action="append", default=[], metavar="LIST", help=text)
    text = "list a bad line of LIST as failed, instead of refusing the list"
    add("--skip-bad-lines", action="store_true", help=text)
    add("--catalog", metavar="NAME", help="a data set by date and variable: era5")
    add("--date", metavar="WHEN", help="202102, 20210203, A..B, or several with commas")
    add("--vars", metavar="NAMES", help="variables with commas: t,u (default: all)")
    add("--product", metavar="NAME", help="an.pl, pressure levels (default), or an.sfc")
    for kind in ("include", "exclude"):
        text = f"{kind} keys below the prefix that match; the last that matches decides"
        add(f"--{kind}", action=_Glob, dest="globs", metavar="GLOB", help=text)
    text = "credentials: auto (default), anonymous, or chain (all of botocore)"
    add("--s3-auth", choices=("auto", "anonymous", "chain"), metavar="HOW", help=text)
    add("--s3-endpoint", metavar="URL", help="another service than AWS")
    add("--s3-region", metavar="NAME", help="of the bucket (default: it is asked for)")
    text = "agree to pay for what is read"
    add("--s3-requester-pays", action="store_true", help=text)


def _files(parser: argparse.ArgumentParser) -> None:
    add = _group(parser, "where the files go")
    add("-o", "--output", default=".", metavar="DIR", help="made if absent (default: .)")
    add("--journal", metavar="FILE", help="where to remember (default: DIR/.holdfast.db)")
    text = "a file of this name that is not ours: verify (default: an equal one is "
    text += "fine, another one fails), skip, overwrite or fail"
    choices = ("verify", "skip", "overwrite", "fail")
    add("--exists", choices=choices, default="verify", metavar="WHAT", help=text)
    text = "give the second file of one name another name, instead of failing it"
    add("--rename", action="store_true", help=text)
    text = "take the name that the server gives (Content-Disposition)"
    add("--content-disposition", action="store_true", help=text)
    add("--allow-dot", action="store_true", help="names may begin with a dot")


def _contents(parser: argparse.ArgumentParser) -> None:
    add = _group(parser, "what they must be")
    add("--sha256", metavar="HEX", help="for one URL")
    add("--md5", metavar="HEX", help="for one URL")
    text = "ask for URL.sha256, URL.md5 and SHA256SUMS beside each file"
    add("--sidecar", action="store_true", help=text)
    add("--max-size", type=_size, default=MAX_SIZE, metavar="SIZE", help="of a file (default: 1T)")
    add("--allow-html", action="store_true", help="an HTML or JSON page is what is wanted")


def _pace(parser: argparse.ArgumentParser) -> None:
    default = Timeouts()
    add = _group(parser, "pace and patience")
    add("--workers", type=int, default=8, metavar="N", help="connections at a time (default: 8)")
    text = "connections to one host at most (default: 16); it begins with 4"
    add("--per-host", type=int, default=16, metavar="N", help=text)
    text = "how small files are fetched: auto (default), threads or asyncio"
    choices = ("auto", "threads", "asyncio")
    add("--plane", choices=choices, default="auto", metavar="HOW", help=text)
    add("--limit-rate", type=_size, metavar="RATE", help="bytes per second, all together: 20M")
    text = "tries without progress (default: 8); each byte kept starts the count afresh"
    add("--attempts", type=int, default=8, metavar="N", help=text)
    text = "stop after so long, with what is left for the next time: 90, 30m, 8h"
    add("--max-time", type=_duration, metavar="TIME", help=text)
    for name, what in (
        ("connect", "for a connection"),
        ("first-byte", "for the head of an answer"),
        ("stall", "of silence within a file"),
    ):
        seconds = default.idle if name == "stall" else getattr(default, name.replace("-", "_"))
        text = f"most seconds {what} (default: {seconds:g})"
        add(f"--{name}-timeout", type=float, metavar="SECONDS", help=text)


def _machine(parser: argparse.ArgumentParser) -> None:
    add = _group(parser, "this machine")
    text = "say what would be fetched, and whether there is room; fetch nothing"
    add("--dry-run", action="store_true", help=text)
    add("--no-space-check", action="store_true", help="begin even if the disk has not room for all")
    text = "a full disk: wait for room (default), or fail: leave the file and end with 3"
    add("--on-full", choices=("wait", "fail"), default="wait", metavar="WHAT", help=text)
    text = "survive a power cut (default), or only a crash of the process, which is faster"
    choices = ("power", "process")
    add("--durability", choices=choices, default="power", metavar="OF", help=text)
    text = "make a damaged journal anew from what can be trusted; the old one is kept"
    add("--rebuild-journal", action="store_true", help=text)
    text = "follow redirects and lists to private addresses"
    add("--allow-private", action="store_true", default=None, help=text)


def _aria2(parser: argparse.ArgumentParser) -> None:
    add = _group(parser, "another program fetches")
    text = "aria2://HOST:PORT, or aria2://local for one that is started here"
    add("--via", metavar="ADDRESS", help=text)
    add("--aria2-secret", metavar="WHERE", help="its secret: env:NAME or file:PATH")


_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)\Z", re.IGNORECASE)
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)\Z", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _size(text: str) -> int:
    """Read `20M`: K, M, G and T are powers of 1024."""
    found = _SIZE.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"`{text}`: write it as `500M` or `2G`")
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


def _duration(text: str) -> float:
    """Read `90`, `30m` or `8h` as seconds."""
    found = _TIME.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"`{text}`: write it as `90` (seconds), `30m` or `8h`")
    return float(found[1]) * _SECONDS[found[2].lower()]


# -- what goes together ----------------------------------------------------------------------------

# What an option needs to mean anything: one of these.
_NEEDS: dict[str, tuple[str, ...]] = {
    "skip_bad_lines": ("-i LIST",),
    "date": ("--catalog",),
    "vars": ("--catalog",),
    "product": ("--catalog",),
    "globs": ("s3://",),
    "s3_auth": ("s3://", "--catalog"),
    "s3_region": ("s3://", "--catalog"),
    "s3_endpoint": ("s3://", "--catalog"),
    "s3_requester_pays": ("s3://",),
    "aria2_secret": ("--via",),
}
_NOT_VIA = (
    "plane",
    "limit_rate",
    "connect_timeout",
    "first_byte_timeout",
    "stall_timeout",
    "allow_html",
    "allow_private",
    "content_disposition",
)
"""What is ours to do only where we move the bytes."""
_OF_STATUS = frozenset({"sources", "output", "journal", "json", "help"})


def check_status(args: argparse.Namespace) -> None:
    """Refuse what has no effect on `status`. Raises DownloadError."""
    for dest in _given(args):
        if dest not in _OF_STATUS:
            raise _refused(f"`{_named(args, dest)}` has no effect with `status`")


def check_together(args: argparse.Namespace) -> None:
    """Refuse an option that would have no effect. Raises DownloadError."""
    there = _there(args)
    given = _given(args)
    for dest in given:
        needs = _NEEDS.get(dest)
        if needs and not there.intersection(needs):
            name = _named(args, dest)
            raise _refused(f"`{name}` has no effect without {' or '.join(needs)}")
        if args.via and dest in _NOT_VIA:
            name = _named(args, dest)
            raise _refused(f"`{name}` has no effect with `--via`: aria2 has options of its own")
    if (args.sha256 or args.md5) and there - {"--via"} != {"URL"}:
        raise _refused("`--sha256` and `--md5` are for one URL", "Use one command per file.")


def _given(args: argparse.Namespace) -> list[str]:
    """Return the options that say something else than their default."""
    parser: argparse.ArgumentParser = args.parser
    values = vars(args).items()
    return [
        dest
        for dest, value in values
        if dest not in {"parser", "console"} and value != parser.get_default(dest)
    ]


def _named(args: argparse.Namespace, dest: str) -> str:
    """Return an option as it is typed."""
    if dest == "globs":
        return f"--{args.globs[0][0]}"
    return f"--{dest.replace('_', '-')}"


def _there(args: argparse.Namespace) -> set[str]:
    """Return what is given of the sources, and of the options that others need."""
    typed = [source for source in args.sources if source not in WORDS]
    found = {"s3://" if is_bucket(source) else "URL" for source in typed}
    if len(typed) > 1:
        found.add("several")
    named = (("-i LIST", args.input), ("--catalog", args.catalog), ("--via", args.via))
    return found | {name for name, value in named if value}


def is_bucket(source: str) -> bool:
    """Whether a source is a bucket's, not a URL."""
    return source[:5].lower() == "s3://"


def _refused(text: str, next_step: str = "") -> DownloadError:
    return DownloadError("bad-option", text, next_step=next_step)
