"""Digests that lie beside files: found, checked, and never a reason to ask twice."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import QUICK, Heard, downloads, names_in, quick_policy

import holdfast as hf
from holdfast.chaos.line import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b"the content of a.nc\n" * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()
SHA512 = hashlib.sha512(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
WRONG = "0" * 64


class Site:
    """A server of one directory. Put a text beside the files, or a number for a status."""

    def __init__(self) -> None:
        self.beside: dict[str, str | int] = {}
        self.asked: list[str] = []
        self.running = hf.chaos.server(hf.chaos.Handler("/*", self.answer))
        self.url: Callable[[str], str] = str

    def answer(self, request: hf.chaos.Request) -> hf.chaos.Answer:
        path = request.path
        self.asked.append(path)
        if path in {"/d/a.nc", "/d/b.nc", "/e/a.nc"}:
            return hf.chaos.Answer(200, {"ETag": '"v1"'}, Plain(BODY))
        found = self.beside.get(path, 404)
        if isinstance(found, int):
            return hf.chaos.Answer(found, {}, Plain(b"no\n"))
        return hf.chaos.Answer(200, {"Content-Type": "text/plain"}, Plain(found.encode()))

    @property
    def sums_asked(self) -> list[str]:
        return [path for path in self.asked if not path.endswith(".nc")]


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with made.running as server:
        made.url = server.url
        yield made


def fetch(into: Path, site: Site, *paths: str, **options: Any) -> tuple[Any, Any]:
    with downloads(into, sidecar=True, **options) as d:
        for path in paths:
            d.add(site.url(path), path=path.lstrip("/"))
        report = d.run()
        return report, d.status().items[0]


@pytest.mark.parametrize(
    ("name", "text", "verified"),
    [
        ("a.nc.sha256", SHA256, "sha256"),
        ("a.nc.sha256", f"{SHA256}  a.nc\n", "sha256"),
        ("a.nc.sha512", f"SHA512 (a.nc) = {SHA512}\n", "sha512"),
        ("a.nc.md5", f"{MD5} *other-name.nc\n", "md5"),
        ("SHA512SUMS", f"{SHA512}  b.nc\n{SHA512}  a.nc\n", "sha512"),
        ("SHA256SUMS", f"{WRONG}  b.nc\n{SHA256}  ./a.nc\n", "sha256"),
        ("MD5SUMS", f"MD5 (a.nc) = {MD5}\n", "md5"),
    ],
)
def test_a_digest_beside_the_file_is_checked(
    name: str, text: str, verified: str, site: Site, tmp_path: Path
) -> None:
    site.beside[f"/d/{name}"] = text
    report, item = fetch(tmp_path, site, "/d/a.nc")
    assert (report.done, dict(report.checked)) == (1, {verified: 1})
    assert (item.verified, item.vouched_by) == (verified, name)
    assert names_in(tmp_path / "d") == ["a.nc"]


def test_a_file_that_is_not_what_the_sidecar_says_fails_with_its_name(
    site: Site, tmp_path: Path
) -> None:
    site.beside["/d/a.nc.sha256"] = WRONG
    report, _ = fetch(tmp_path, site, "/d/a.nc")
    (failed,) = report.failed
    assert failed.reason == "digest"
    assert "from: a.nc.sha256" in failed.text
    assert WRONG in failed.text
    assert SHA256 in failed.text


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"/d/a.nc.sha256": "<html>log in</html>", "/d/SHA256SUMS": "<html>log in</html>"},
        {"/d/a.nc.sha256": 403, "/d/SHA256SUMS": 410},
        {"/d/a.nc.sha256": 401},
        {"/d/a.nc.sha256": "x" * ((1 << 20) + 1)},
        {"/d/SHA256SUMS": f"{WRONG}  b.nc\n"},
    ],
    ids=["absent", "a page", "refused", "asks for a login", "too large", "of others"],
)
def test_what_is_no_sum_is_none(nothing: dict[str, str | int], site: Site, tmp_path: Path) -> None:
    site.beside.update(nothing)
    report, item = fetch(tmp_path, site, "/d/a.nc")
    assert (report.done, item.verified) == (1, "size-only")


def test_the_sums_of_a_directory_are_asked_for_once(site: Site, tmp_path: Path) -> None:
    site.beside["/d/SHA256SUMS"] = f"{SHA256}  a.nc\n{SHA256}  b.nc\n"
    with downloads(tmp_path, sidecar=True, workers=1) as d:
        for path in ("/d/a.nc", "/d/b.nc", "/e/a.nc"):
            d.add(site.url(path), path=path[1:])
        report = d.run()
    assert dict(report.checked) == {"sha256": 2, "size-only": 1}
    assert site.asked.count("/d/SHA256SUMS") == 1
    assert not any(path.startswith("/d/b.nc.") for path in site.asked)


def test_several_workers_share_one_question(site: Site, tmp_path: Path) -> None:
    site.beside["/d/SHA256SUMS"] = f"{SHA256}  a.nc\n"
    with downloads(tmp_path, sidecar=True, workers=8) as d:
        for n in range(8):
            d.add(site.url("/d/a.nc") + f"?n={n}", path=f"{n}/a.nc")
        report = d.run()
    assert dict(report.checked) == {"sha256": 8}


def test_what_the_user_gave_needs_no_sidecar(site: Site, tmp_path: Path) -> None:
    site.beside["/d/a.nc.sha256"] = WRONG
    with downloads(tmp_path, sidecar=True) as d:
        d.add(site.url("/d/a.nc"), sha256=SHA256)
        assert d.run().done == 1
    assert site.sums_asked == []


def test_without_the_option_nothing_is_asked(site: Site, tmp_path: Path) -> None:
    site.beside["/d/a.nc.sha256"] = SHA256
    with downloads(tmp_path) as d:
        d.add(site.url("/d/a.nc"))
        assert dict(d.run().checked) == {"size-only": 1}
    assert site.asked == ["/d/a.nc"]


def test_a_file_that_is_there_is_judged_by_its_sidecar(site: Site, tmp_path: Path) -> None:
    site.beside["/d/a.nc.sha256"] = SHA256
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.nc").write_bytes(BODY)
    report, item = fetch(tmp_path, site, "/d/a.nc")
    assert (report.skipped, item.verified) == (1, "sha256")
    assert "/d/a.nc" not in site.asked


def test_a_server_that_is_away_is_not_taken_for_one_without_sums(
    site: Site, tmp_path: Path
) -> None:
    site.beside["/d/a.nc.sha256"] = 503
    report, _ = fetch(tmp_path, site, "/d/a.nc", policy=quick_policy(2), timeouts=QUICK)
    (failed,) = report.failed
    assert failed.reason in {"server-error", "throttled"}
    assert "/d/a.nc" not in site.asked


def test_it_follows_redirects_and_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    routes = [
        hf.chaos.Redirect("/a.nc.sha256", "/sums/of-a"),
        hf.chaos.Handler("/sums/of-a", lambda _: f"{SHA256}  a.nc\n"),
        hf.chaos.Handler("/a.nc", lambda _: BODY),
    ]
    heard = Heard()
    with hf.chaos.server(*routes) as server, downloads(tmp_path, sidecar=True) as d:
        d.watch(heard)
        d.add(server.url("/a.nc"))
        report = d.run()
    assert dict(report.checked) == {"sha256": 1}
    assert names_in(tmp_path) == ["a.nc"]
    assert heard.named("FileState")[-1].source == "a.nc.sha256"


def test_a_stop_ends_the_question(tmp_path: Path) -> None:
    stall = hf.chaos.Stall(after_bytes=10)
    sums = hf.chaos.Object("/a.nc.sha256", 1000, faults=[stall])
    with hf.chaos.server(sums, hf.chaos.Object("/a.nc", 1000)) as server:
        timeouts = hf.downloads.downloads.Timeouts(idle=60)
        with downloads(tmp_path, sidecar=True, timeouts=timeouts) as d:
            d.add(server.url("/a.nc"))
            timer = threading.Timer(0.3, d.stop)
            timer.start()
            report = d.run()
            timer.join()
    assert report.exit_code == 130
    assert report.seconds < 5
