"""The states of an aria2 download: every cell of the table, every code of aria2, every value."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.downloads.aria2 import (
    Aria2AuthError,
    Aria2ProcessError,
    Aria2Refused,
    Aria2Unavailable,
    BatchDownloadProgress,
    DownloadProgress,
    RetryInfo,
)
from holdfast.downloads.aria2.item import Item, Source, as_options, public_options
from holdfast.downloads.aria2.look import Resume, Seen, resume_of
from holdfast.downloads.aria2.states import (
    SHOWN,
    TRANSITIONS,
    Input,
    Next,
    State,
    after,
    applies,
    is_open,
    judge,
)
from holdfast.downloads.failures import DownloadError
from holdfast.transfer.validators import Validators
from holdfast.wire.urls import parse

OPEN = [state for state in State if is_open(state)]
ENDED = [state for state in State if not is_open(state)]


@pytest.mark.parametrize(("state", "happened"), list(itertools.product(State, Input)))
def test_every_cell_is_in_the_table_or_refused(state: State, happened: Input) -> None:
    if (state, happened) in TRANSITIONS:
        assert applies(state, happened)
        assert after(state, happened) in State
    else:
        assert not applies(state, happened)
        with pytest.raises(ValueError, match="does not apply"):
            after(state, happened)


@pytest.mark.parametrize("state", ENDED)
def test_what_has_ended_leaves_its_state_only_when_asked(state: State) -> None:
    inputs = {happened for known, happened in TRANSITIONS if known is state}
    assert inputs <= {Input.ADD, Input.DUE, Input.CANCEL}
    assert after(state, Input.ADD) is State.PENDING


@pytest.mark.parametrize("state", OPEN)
def test_what_is_open_can_fail_and_adding_it_again_changes_nothing(state: State) -> None:
    assert after(state, Input.FAILED) is State.ERROR
    assert after(state, Input.ADD) is state


def test_every_state_is_shown_as_one_of_aria2s_words() -> None:
    assert set(SHOWN) == set(State)
    assert set(SHOWN.values()) == {"active", "waiting", "paused", "error", "complete", "removed"}


@pytest.mark.parametrize("code", ["1", "2", "5", "6", "7", "29"])
def test_what_may_pass_is_tried_again(code: str) -> None:
    ruling = judge(code, "some words")
    assert (ruling.next, ruling.most) == (Next.AGAIN, None)


@pytest.mark.parametrize(
    "code",
    [
        "3",
        "4",
        "11",
        "12",
        "13",
        "14",
        "15",
        "16",
        "17",
        "18",
        "20",
        "21",
        "23",
        "24",
        "25",
        "26",
        "27",
        "28",
        "30",
        "99",
    ],
)
def test_what_will_not_pass_is_over(code: str) -> None:
    assert judge(code, "some words").next is Next.END


@pytest.mark.parametrize(
    ("code", "text", "next_step", "most"),
    [
        ("1", "", Next.END, None),
        ("1", "Unsupported protocol", Next.END, None),
        ("19", "x", Next.AGAIN, 1),
        ("8", "x", Next.AFRESH, None),
        ("10", "x", Next.AFRESH, None),
        ("32", "x", Next.AFRESH, 1),
        ("9", "x", Next.HOLD, None),
        ("22", "The response status is not successful. status=500", Next.AGAIN, None),
        ("22", "The response status is not successful. status=408", Next.AGAIN, None),
        ("22", "The response status is not successful. status=429", Next.AGAIN, None),
        ("22", "The response status is not successful. status=403", Next.END, None),
        ("22", "no status in it: 503", Next.END, None),
    ],
)
def test_codes_that_stand_for_several_things(
    code: str, text: str, next_step: Next, most: int | None
) -> None:
    ruling = judge(code, text)
    assert (ruling.next, ruling.most) == (next_step, most)


# -- may the bytes be used -----------------------------------------------------------------------


def item(**changes: object) -> Item:
    known = {"path": "/a", "part": "/p", "urls": (), "options": {}, "source": None}
    return Item("0" * 16, **{**known, **changes})


STRONG = Validators(etag='"1"', size=9)
OTHER = Validators(etag='"2"', size=9)
DATED = Validators(last_modified="Mon, 01 Jan 2024 00:00:00 GMT", size=9)
BARE = Validators(size=9)
SUM = {"checksum": "md5=x"}


@pytest.mark.parametrize(
    ("known", "seen", "kept", "expected"),
    [
        (item(pinned=STRONG), Seen(STRONG), False, Resume.FRESH),
        (item(pinned=STRONG), Seen(STRONG), True, Resume.KEEP),
        (item(pinned=DATED), Seen(DATED), True, Resume.KEEP),
        (item(pinned=STRONG), Seen(OTHER), True, Resume.FRESH),
        (item(pinned=BARE), Seen(BARE), True, Resume.FRESH),
        (item(pinned=None), Seen(STRONG), True, Resume.FRESH),
        (item(pinned=STRONG), Seen(None, "29", passing=True), True, Resume.LATER),
        (item(pinned=STRONG), Seen(None, "22", passing=False), True, Resume.FRESH),
        (item(pinned=BARE, options=SUM), Seen(BARE), True, Resume.KEEP),
        (item(pinned=None, options=SUM), Seen(None, "29", passing=True), True, Resume.KEEP),
        (item(pinned=STRONG, options=SUM), Seen(OTHER), True, Resume.FRESH),
    ],
)
def test_bytes_are_kept_only_if_somebody_vouches_for_them(
    known: Item,
    seen: Seen,
    kept: bool,  # noqa: FBT001 - a case of the table
    expected: Resume,
) -> None:
    assert resume_of(known, seen, kept=kept) is expected


# -- options and secrets ---------------------------------------------------------------------------


def test_options_become_text_in_a_copy() -> None:
    given = {"split": 4, "pause": True, "check-certificate": False, "header": "X: 1"}
    assert as_options(given) == {
        "split": "4",
        "pause": "true",
        "check-certificate": "false",
        "header": ["X: 1"],
    }
    assert given["header"] == "X: 1"
    assert as_options(None) == {}


def test_an_option_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(DownloadError, match="`split`: NoneType"):
        as_options({"split": None})


@pytest.mark.parametrize(
    "options",
    [
        {"header": ["Authorization: Bearer abc"]},
        {"header": ["Accept: x", "Cookie: a=abc"]},
        {"http-passwd": "abc"},
        {"http-user": "abc"},
        {"all-proxy-passwd": "abc"},
        {"http-proxy": "http://u:abc@proxy:1"},
    ],
)
def test_what_authorises_is_not_shown(options: dict[str, object]) -> None:
    source = Source((parse("http://h/a"),), as_options(options))
    assert source.has_secrets
    assert "abc" not in repr(source) + repr(public_options(source.options))


def test_what_does_not_authorise_is_no_secret() -> None:
    options = as_options({"header": "Accept: x", "http-proxy": "http://proxy:1", "split": 3})
    assert not Source((parse("http://h/a?b=1"),), options).has_secrets
    assert Source((parse("http://h/a?sig=1"),), {}).has_secrets
    assert Source((parse("http://u:p@h/a"),), {}).full() == ["http://u:p@h/a"]


# -- values ----------------------------------------------------------------------------------------


def progress(status: str, done: int, total: int, speed: int = 0) -> DownloadProgress:
    return DownloadProgress("g" * 16, status, total, done, speed)


@pytest.mark.parametrize(
    ("value", "percent", "eta"),
    [
        (progress("waiting", 0, 0), 0.0, None),
        (progress("active", 25, 100, 5), 25.0, 15.0),
        (progress("active", 25, 0, 5), 0.0, None),
        (progress("complete", 0, 0), 100.0, 0.0),
        (progress("paused", 50, 100), 50.0, None),
    ],
)
def test_percent_and_time_to_go(value: DownloadProgress, percent: float, eta: float | None) -> None:
    assert (value.progress_percent, value.eta_seconds) == (percent, eta)


def test_a_batch_adds_up() -> None:
    parts = (
        progress("active", 25, 100, 5),
        progress("complete", 100, 100),
        progress("error", 0, 0),
    )
    batch = BatchDownloadProgress("b", parts, is_completed=False, created_at=1.0)
    assert (batch.total_size, batch.downloaded_size, batch.total_speed) == (200, 125, 5)
    assert (batch.progress_percent, batch.eta_seconds) == (62.5, 15.0)
    assert (batch.completed_count, batch.failed_count, batch.active_count) == (1, 1, 1)


def test_retry_info_reads_as_a_mapping_too() -> None:
    info = RetryInfo("g", 2, 3, can_retry=True, url="http://h/a")
    assert info["retry_count"] == info.retry_count == 2
    assert dict(info)["url"] == "http://h/a"
    assert list(info)[:3] == ["gid", "retry_count", "max_retries"]
    with pytest.raises(KeyError):
        info["keys"]


@pytest.mark.parametrize(
    "error",
    [
        Aria2Unavailable("text", address="h:1", attempts=3),
        Aria2AuthError("text", address="h:1"),
        Aria2Refused("aria2.addUri", "no", address="h:1"),
        Aria2ProcessError("text"),
    ],
)
def test_errors_keep_their_data_when_they_are_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.__dict__) == (str(error), error.__dict__)


def test_without_aiohttp_the_client_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import holdfast as hf\n"
        "hf.Aria2Process\n"
        "try: hf.Aria2Client\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "`holdfast.Aria2Client` needs aiohttp: pip install 'holdfast[aria2]'\n"


# -- the page ----------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "aria2.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [hf.Aria2Client, hf.Aria2Process])
def test_the_page_has_every_option_and_public_name(kind: type) -> None:
    rows = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    for name in inspect.signature(kind).parameters:
        assert f"`{name}`" in rows, name
    for name in vars(kind):
        if not name.startswith("_") and name not in {"close", "stop"}:
            assert re.search(rf"`{name}[`(]", PAGE), name


@pytest.mark.parametrize("kind", [Aria2Unavailable, Aria2AuthError, Aria2Refused])
def test_the_page_has_the_next_step_of_every_error(kind: type) -> None:
    assert f"| {kind.code} | `{kind.__name__}` |" in PAGE
    assert kind.next_step in PAGE


def test_the_page_has_what_follows_from_each_code() -> None:
    again, afresh = (
        next(line for line in PAGE.splitlines() if line.startswith(start))
        for start in ("| refused, timeout", "| no resume")
    )
    for code in map(str, range(1, 33)):
        ruling = judge(code, "words status=503")
        in_rows = code in again.split("|")[2].replace(",", "").split()
        assert in_rows == (ruling.next is Next.AGAIN and ruling.most is None), code
        assert (code in afresh.split("|")[2].split()) == (ruling.next is Next.AFRESH), code
