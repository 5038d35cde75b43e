"""The sources and options of `holdfast get`: lists, buckets, the catalog, plans, refusals."""

from __future__ import annotations

import argparse
import json
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_rig import events_of, get, running, until

import holdfast as hf
from holdfast.chaos import Answer, Handler, Object
from holdfast.chaos.line import Plain
from holdfast.cli import get_options
from holdfast.cli import main as cli
from holdfast.downloads.catalogs import era5

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CODES = {"t": "128_130", "u": "128_131", "q": "128_133"}


def key_of(variable: str, month: str, day: int) -> str:
    grid = "ll025uv" if variable == "u" else "ll025sc"
    date = f"{month}{day:02}"
    name = f"e5.oper.an.pl.{CODES[variable]}_{variable}.{grid}.{date}00_{date}23.nc"
    return f"e5.oper.an.pl/{month}/{name}"


@pytest.fixture(scope="module")
def ncar(moto: str, moto_store: Any) -> Iterator[str]:
    """Serve a bucket as NCAR's, two months of three variables, and a bucket of small files."""
    store = moto_store
    store.create_bucket(era5.BUCKET, "us-west-2")
    for month, days in (("202101", 31), ("202102", 28)):
        for variable in CODES:
            for day in range(1, days + 1):
                key = key_of(variable, month, day)
                store.put_object(era5.BUCKET, key, key.encode() * 50)
    store.create_bucket("small", "us-east-1")
    for name in ("a.nc", "a.txt", "old/a.nc", "old/keep.nc", "new/b.nc"):
        store.put_object("small", f"p/{name}", name.encode())
    for bucket in (era5.BUCKET, "small"):
        for one in store.buckets[bucket].keys.values():
            one.set_acl(moto_acl())
    yield moto
    for bucket in (era5.BUCKET, "small"):
        store.buckets.pop(bucket)


def moto_acl() -> Any:
    from moto.s3.models import get_canned_acl  # noqa: PLC0415 - what is above skips without it

    return get_canned_acl("public-read")


def files_in(directory: Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(
        path.relative_to(directory).as_posix() for path in found if path.name[:9] != ".holdfast"
    )


# -- the catalog -----------------------------------------------------------------------------------


def test_a_month_of_era5_comes_whole_and_only_what_was_asked_for(ncar: str, tmp_path: Path) -> None:
    words = ["--catalog", "era5", "--date", "202102", "--vars", "t,u", "--s3-endpoint", ncar]
    done = get(*words, "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    wanted = sorted(
        key_of(v, "202102", day).removeprefix("e5.oper.an.pl/")
        for v in "tu"
        for day in range(1, 29)
    )
    assert files_in(tmp_path) == wanted
    for name in wanted:
        assert (tmp_path / name).read_bytes() == f"e5.oper.an.pl/{name}".encode() * 50
    assert "56 done, 0 skipped, 0 failed" in done.stderr
    again = get(*words, "-o", str(tmp_path))
    assert again.returncode == 0
    assert "0 done, 56 skipped, 0 failed: 0 B received" in again.stderr


def test_a_plan_of_two_months_tells_files_bytes_and_room_and_fetches_nothing(
    ncar: str, tmp_path: Path
) -> None:
    words = ["--catalog", "era5", "--date", "202101..202102", "--vars", "t,u", "--dry-run"]
    words += ["--s3-endpoint", ncar, "-o", str(tmp_path / "new")]
    done = get(*words)
    assert done.returncode == 0, done.stderr
    size = sum(
        50 * len(key_of(v, month, day))
        for v in "tu"
        for month, days in (("202101", 31), ("202102", 28))
        for day in range(1, days + 1)
    )
    assert "files:      118 (" in done.stdout
    assert "requests:   118 at least" in done.stdout
    assert not (tmp_path / "new").exists()
    told = events_of(get(*words, "--json"))
    plan = told[-1]
    assert (plan["event"], plan["files"], plan["bytes"]) == ("Plan", 118, size)
    assert (plan["needed"], plan["collisions"], plan["fits"]) == (size, 0, True)
    assert plan["failed"] == []
    assert {event["event"] for event in told} == {"ListingPage", "Plan"}


def test_an_empty_month_is_a_failure_and_a_wrong_variable_a_mistake(
    ncar: str, tmp_path: Path
) -> None:
    words = ["--catalog", "era5", "--s3-endpoint", ncar, "-o", str(tmp_path)]
    empty = get(*words, "--date", "202103", "--vars", "t")
    assert empty.returncode == 1
    assert "[HF-1309]" in empty.stderr
    wrong = get(*words, "--date", "202102", "--vars", "tt")
    assert wrong.returncode == 2
    assert "`--vars tt`: no variable of an.pl; did you mean `t`" in wrong.stderr
    assert "[HF-1003]" in wrong.stderr


# -- buckets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], ["a.nc", "a.txt", "new/b.nc", "old/a.nc", "old/keep.nc"]),
        (["--include", "**/*.nc"], ["a.nc", "new/b.nc", "old/a.nc", "old/keep.nc"]),
        (["--exclude", "old/**", "--include", "old/keep.nc"], ["old/keep.nc"]),
        (
            ["--include", "**", "--exclude", "old/**", "--include", "old/keep.nc"],
            ["a.nc", "a.txt", "new/b.nc", "old/keep.nc"],
        ),
        (["--include", "old/keep.nc", "--exclude", "old/**", "--include", "*.txt"], ["a.txt"]),
    ],
)
def test_the_last_rule_that_matches_decides(
    rules: list[str], expected: list[str], ncar: str, tmp_path: Path
) -> None:
    words = ["s3://small/p/", "--s3-endpoint", ncar, "--s3-auth", "anonymous"]
    done = get(*words, *rules, "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == expected


def test_sources_may_be_mixed(ncar: str, tmp_path: Path) -> None:
    with hf.chaos.server(Object("/x", 10), Object("/y", 20)) as server:
        (tmp_path / "list").write_text(f"{server.url('/y')}\n  out=below/y\n")
        done = get(
            server.url("/x"), "s3://small/p/new/", "-i", str(tmp_path / "list"),
            "--s3-endpoint", ncar, "-o", str(tmp_path / "out"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out") == ["b.nc", "below/y", "x"]


def test_ctrl_c_ends_a_listing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    slow = hf.chaos.Stall(part="head")
    with hf.chaos.server(Handler("/*", lambda _: Answer(200, {}), faults=[slow])) as server:
        words = ["s3://bucket/p/", "--s3-endpoint", f"http://{server.address}"]
        words += ["--s3-auth", "anonymous", "-o", str(tmp_path)]
        with running(*words) as process:
            until(lambda: server.stats.requests == 1)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, err = process.communicate(timeout=20)
            assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "left (" in err


# -- lists -----------------------------------------------------------------------------------------


def test_a_list_from_standard_input_with_names_and_sums(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100), Object("/b", 200)) as server:
        digest = server.expected_sha256("/a")
        entry = {"url": server.url("/b"), "path": "2/b", "size": 200}
        text = f"{server.url('/a')}\n  out=1/a\n  checksum=sha-256={digest}\n{json.dumps(entry)}\n"
        done = get("-i", "-", "-o", str(tmp_path), given=text)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == ["1/a", "2/b"]
    assert "done: `1/a` (100 B, sha256 verified)" in done.stdout


def test_a_bad_line_refuses_the_list_before_any_request(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100)) as server:
        (tmp_path / "list").write_text(f"{server.url('/a')}\nnonsense\n")
        words = ["-i", str(tmp_path / "list"), "-o", str(tmp_path / "out")]
        refused = get(*words)
        assert refused.returncode == 2
        assert "\n  line 2: " in refused.stderr
        assert "[HF-1009]" in refused.stderr
        assert server.stats.requests == 0
        skipped = get(*words, "--skip-bad-lines")
        assert skipped.returncode == 1
        assert files_in(tmp_path / "out") == ["a"]
        assert "[HF-1009]" in skipped.stderr
        assert "1 done, 0 skipped, 1 failed" in skipped.stderr


# -- names and contents --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "code", "content"),
    [
        (["--exists", "verify"], 1, b"mine"),
        (["--exists", "skip"], 0, b"mine"),
        (["--exists", "fail"], 1, b"mine"),
        (["--exists", "overwrite"], 0, None),
    ],
)
def test_a_file_in_the_way_is_what_exists_says(
    option: list[str], code: int, content: bytes | None, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with hf.chaos.server(Object("/a", 100)) as server:
        assert get(server.url("/a"), *option, "-o", str(tmp_path)).returncode == code
        assert (tmp_path / "a").read_bytes() == (content or server.expected_bytes("/a"))


def test_names_are_safe_unless_the_user_wants_otherwise(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/x/.rc", 10), Object("/y/.rc", 20)) as server:
        urls = [server.url("/x/.rc"), server.url("/y/.rc")]
        assert get(*urls, "-o", str(tmp_path / "1")).returncode == 1
        assert files_in(tmp_path / "1") == ["_rc"]
        more = ["--allow-dot", "--rename"]
        assert get(*urls, *more, "-o", str(tmp_path / "2")).returncode == 0
        found = files_in(tmp_path / "2")
    assert len(found) == 2
    assert found[0].startswith(".rc")


def test_the_server_may_say_the_name_if_it_is_asked(tmp_path: Path) -> None:
    head = {"Content-Disposition": 'attachment; filename="data.nc"', "ETag": '"1"'}
    with hf.chaos.server(Handler("/get", lambda _: Answer(200, head, Plain(b"body")))) as server:
        words = [server.url("/get?id=3"), "--content-disposition"]
        done = get(*words, "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == ["data.nc"]


def test_a_sum_beside_the_file_is_heeded(tmp_path: Path) -> None:
    sums: dict[str, str] = {}
    beside = Handler("/a.sha256", lambda _: sums["a"])
    with hf.chaos.server(Object("/a", 100), beside) as server:
        sums["a"] = f"{server.expected_sha256('/a')}  a\n"
        done = get(server.url("/a"), "--sidecar", "-o", str(tmp_path / "1"))
        assert done.returncode == 0
        assert done.stdout == "done: `a` (100 B, sha256 verified)\n"
        sums["a"] = f"{'0' * 64}  a\n"
        wrong = get(server.url("/a"), "--sidecar", "-o", str(tmp_path / "2"))
        assert wrong.returncode == 1
        assert "[HF-1401]" in wrong.stderr


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_is_refused_as_the_run_would_be(tmp_path: Path) -> None:
    entry = {"url": "http://127.0.0.1:1/a", "size": 1 << 60}
    (tmp_path / "list").write_text(json.dumps(entry))
    words = ["-i", str(tmp_path / "list"), "-o", str(tmp_path)]
    for more in (["--dry-run"], []):
        done = get(*words, *more)
        assert done.returncode == 2
        assert "there is no room for 1 file" in done.stderr
        assert "[HF-1012]" in done.stderr
    assert get(*words, "--dry-run", "--no-space-check").returncode == 0


def test_a_plan_knows_what_is_there_and_changes_nothing(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100), Object("/b", 50)) as server:
        urls = [server.url("/a"), server.url("/b")]
        assert get(urls[0], "-o", str(tmp_path)).returncode == 0
        before = (tmp_path / ".holdfast.db").read_bytes()
        done = get(*urls, "-o", str(tmp_path), "--dry-run")
        assert done.returncode == 0
        assert "files:      1 (0 B, and 1 of unknown size)" in done.stdout
        assert (tmp_path / ".holdfast.db").read_bytes() == before
        status = get("status", "-o", str(tmp_path), "--json")
        assert events_of(status)[-1]["counts"] == {"done": 1}


def test_a_plan_names_collisions(tmp_path: Path) -> None:
    done = get(
        "http://127.0.0.1:1/x/a", "http://127.0.0.1:1/y/A", "-o", str(tmp_path / "o"), "--dry-run"
    )
    assert done.returncode == 1
    assert "collisions: 1" in done.stdout
    assert "[HF-1203]" in done.stderr


# -- what goes together --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["http://h/a", "--include", "*"], "`--include` has no effect without s3://"),
        (["http://h/a", "--exclude", "*"], "`--exclude` has no effect without s3://"),
        (["http://h/a", "--date", "202102"], "`--date` has no effect without --catalog"),
        (["http://h/a", "--vars", "t"], "`--vars` has no effect without --catalog"),
        (["http://h/a", "--product", "an.pl"], "`--product` has no effect without --catalog"),
        (["http://h/a", "--skip-bad-lines"], "has no effect without -i LIST"),
        (["http://h/a", "--s3-region", "x"], "has no effect without s3:// or --catalog"),
        (["http://h/a", "--s3-auth", "chain"], "has no effect without s3:// or --catalog"),
        (["http://h/a", "--s3-endpoint", "http://h"], "has no effect without s3:// or --catalog"),
        (["http://h/a", "--s3-requester-pays"], "has no effect without s3://"),
        (["http://h/a", "--aria2-secret", "env:X"], "has no effect without --via"),
        (["http://h/a", "--via", "aria2://local", "--limit-rate", "1M"], "has no effect with"),
        (["http://h/a", "--via", "aria2://local", "--plane", "threads"], "has no effect with"),
        (["http://h/a", "--via", "aria2://local", "--stall-timeout", "3"], "has no effect with"),
        (["http://h/a", "--via", "http://h"], "write `aria2://HOST:PORT`"),
        (["s3://b/p", "--sha256", "0" * 64], "are for one URL"),
        (["status", "http://h/a"], "`status` goes without a source"),
        (["retry-failed", "-i", "x"], "`retry-failed` goes without a source"),
        (["status", "--workers", "3"], "`--workers` has no effect with `status`"),
        (["retry-failed", "--dry-run"], "`--dry-run` has no effect with `retry-failed`"),
        (["s3://", "-o", "x"], "s3://"),
        (["-i", "no-such-list"], "`no-such-list`: the list cannot be read"),
        (["--catalog", "era6", "--date", "202102"], "did you mean `era5`"),
        (["--catalog", "era5"], "needs `--date`"),
        (["http://h/a", "--max-time", "soon"], "write it as `90` (seconds)"),
    ],
)
def test_an_option_without_effect_is_refused(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["get", *words]) == 2
    assert what in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_help_is_grouped_and_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["get", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for title in (
        "what to fetch (sources may be mixed):",
        "where the files go:",
        "what they must be:",
        "pace and patience:",
        "this machine:",
        "another program fetches:",
        "examples:",
    ):
        assert title in lines


def test_every_option_has_its_row_on_the_page_of_downloads() -> None:
    parser = argparse.ArgumentParser()
    get_options.configure(parser)
    options = {one for action in parser._actions for one in action.option_strings}
    page = (ROOT / "docs" / "get.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| (`-.*?) \|", page, re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z0-9-]*", rows))
    assert len(options) > 40
    assert options - named <= {"-h", "--help"}
    assert named - options <= {"--json"}  # every command has it
