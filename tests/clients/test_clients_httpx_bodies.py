"""Request bodies that are never short, and answers that are decoded within bounds."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import zlib

import pytest
from httpx_faces import FACES, NOW, Connection, answer, answers, serving

import holdfast as hf

each = pytest.mark.parametrize("face", FACES, ids=repr)
sync_only = pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=repr)
DATA = bytes(range(256)) * 4000  # 1 MB: many pieces


def retrying(attempts: int = 3) -> hf.Policy:
    return hf.policy(hf.Deadline(20), hf.Retry(attempts, backoff=NOW, budget=None))


def pieces_of(data: bytes, size: int = 100_000):
    return [data[i : i + size] for i in range(0, len(data), size)]


def once(face, data: bytes = DATA):
    """Return a generator of the face's kind."""
    if not face.is_async:
        return (piece for piece in pieces_of(data))

    async def generate():
        for piece in pieces_of(data):
            yield piece

    return generate()


class Unseekable(io.RawIOBase):
    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._data.readinto(buffer)


# -- request bodies ----------------------------------------------------------------------


@each
@pytest.mark.parametrize(
    "options", [{"content": DATA}, {"content": "text"}, {"json": [1, 2]}, {"data": {"a": "b"}}]
)
def test_what_is_in_memory_is_sent_again(face, options):
    with serving(answers("rst", "fin", answer())) as server, face.client(retrying()) as c:
        assert c.request("PUT", server.url, **options).content == b"fine"
        bodies = [one.body for one in server.requests]
        assert len(bodies) == 3
        assert bodies[0]
        assert len(set(bodies)) == 1


@sync_only
def test_a_file_is_sent_again_from_where_it_stood(face, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"skip this" + DATA)
    with (
        serving(answers("rst", "fin", answer())) as server,
        face.client(retrying()) as c,
        path.open("rb") as file,
    ):
        file.seek(9)
        # httpx (not httpx2) states the size of the whole file whatever its position.
        r = c.request("PUT", server.url, content=file, headers={"Content-Length": str(len(DATA))})
        assert r.content == b"fine"
        assert [one.body == DATA for one in server.requests] == [True] * 3


@each
def test_files_of_a_form_are_sent_again_whole(face):
    files = {"a": ("a.bin", io.BytesIO(DATA)), "b": ("b.txt", b"text")}
    with serving(answers("rst", "fin", answer())) as server, face.client(retrying()) as c:
        r = c.request("PUT", server.url, files=files, data={"field": "value"})
        assert r.content == b"fine"
        bodies = [one.body for one in server.requests]
        assert len(bodies) == 3
        assert DATA in bodies[0]
        assert len(set(bodies)) == 1


@each
def test_a_form_with_a_pipe_is_sent_once(face):
    files = {"a": ("a.bin", Unseekable(b"only once"))}
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError) as caught:
            c.request("PUT", server.url, files=files)
        assert "cannot be sent again" in caught.value.__notes__[0]
        assert len(server.requests) == 1


@each
def test_a_generator_is_sent_once(face):
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError) as caught:
            c.request("PUT", server.url, content=once(face))
        assert "cannot be sent again" in caught.value.__notes__[0]
        assert [one.body == DATA for one in server.requests] == [True]


@sync_only
def test_an_iterator_that_is_no_generator_is_sent_once_too(face):
    """httpx would send an empty body with a second attempt, and take the answer for good."""
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError):
            c.request("PUT", server.url, content=map(bytes, [b"a", b"b"]))
        assert [one.body for one in server.requests] == [b"ab"]
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError):
            c.request("PUT", server.url, content=Unseekable(b"pipe"))
        assert [one.body for one in server.requests] == [b"pipe"]


@each
def test_a_generator_is_sent_again_if_it_fits_the_replay_buffer(face):
    for size, requests in ((len(DATA), 3), (len(DATA) - 1, 1)):
        with (
            serving(answers("rst", "fin", answer())) as server,
            face.client(retrying(), replay_buffer=size) as c,
        ):
            try:
                r = c.request("PUT", server.url, content=once(face))
                assert r.content == b"fine"
            except face.lib.ReadError:
                assert requests == 1
            assert [one.body == DATA for one in server.requests] == [True] * requests


@sync_only
def test_a_list_of_pieces_is_sent_again(face):
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        assert c.request("PUT", server.url, content=[b"a", b"b"]).content == b"fine"
        assert [one.body for one in server.requests] == [b"ab", b"ab"]


@each
def test_a_generator_that_was_not_begun_is_sent_after_a_refused_connection(face, monkeypatch):
    tried = []

    def refuse_once(inner):
        backend = inner._pool._network_backend
        connect = backend.connect_tcp

        def first_fails(*args, **options):
            tried.append(1)
            if len(tried) == 1:
                raise ConnectionRefusedError(111, "refused")
            return connect(*args, **options)

        async def afirst_fails(*args, **options):
            return await first_fails(*args, **options)

        monkeypatch.setattr(backend, "connect_tcp", afirst_fails if face.is_async else first_fails)

    inner = face.inner(verify=False)
    refuse_once(inner)
    with serving(answers(answer())) as server, face.client(retrying(), inner) as c:
        assert c.post(server.url, content=once(face)).content == b"fine"
        assert [one.body == DATA for one in server.requests] == [True]
        assert len(tried) == 2


def cut_at(k: int, *, times: int = 1):
    """Read the head and `k` bytes of the body, then reset; answer later requests."""
    left = [times]

    def script(connection: Connection) -> None:
        if left[0]:
            left[0] -= 1
            head = connection.head()
            assert head is not None
            connection._reader.read(k)
            connection.reset()
            return
        while connection.request() is not None:
            connection.send(answer())

    return script


@each
@pytest.mark.parametrize("k", [0, 1, 65_536, 500_000, len(DATA) - 1])
def test_a_body_cut_at_byte_k_is_never_resent_in_part(face, k):
    with serving(cut_at(k)) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.TransportError):
            c.request("PUT", server.url, content=once(face))
        assert server.requests == []
        assert server.connections == 1
    with serving(cut_at(k)) as server, face.client(retrying()) as c:
        files = {"a": ("a.bin", io.BytesIO(DATA))}
        assert c.request("PUT", server.url, files=files).content == b"fine"
        assert [DATA in one.body for one in server.requests] == [True]


@sync_only
def test_a_file_is_whole_after_a_redirect(face):
    moved = answer(b"", "307 Temporary Redirect", "Location: /there")
    with serving(answers(moved, "rst", answer())) as server, face.client(retrying()) as c:
        assert c.request("PUT", server.url, content=io.BytesIO(DATA)).content == b"fine"
        assert [one.path for one in server.requests] == ["/", "/there", "/there"]
        assert all(one.body == DATA for one in server.requests)


@each
def test_a_generator_is_not_sent_after_a_redirect(face):
    moved = answer(b"", "307 Temporary Redirect", "Location: /there")
    with serving(answers(moved, answer())) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.StreamConsumed):
            c.request("PUT", server.url, content=once(face))
        assert [one.path for one in server.requests] == ["/"]


@each
def test_a_generator_that_raises_ends_the_call(face):
    def broken():
        yield b"some"
        raise RuntimeError("disk on fire")

    async def abroken():
        yield b"some"
        raise RuntimeError("disk on fire")

    held = hf.policy(hf.Deadline(5), hf.Bulkhead(1), hf.Retry(3, backoff=NOW))
    with serving(answers(answer())) as server, face.client(held) as c:
        with pytest.raises(RuntimeError, match="disk on fire"):
            c.request("PUT", server.url, content=abroken() if face.is_async else broken())
        assert held.state()["active"] == 0


# -- decoding ----------------------------------------------------------------------------

TEXT = b"some text that is packed " * 100
PACKED = gzip.compress(TEXT)
GZIP = "Content-Encoding: gzip"


def chunked(body: bytes, *fields: str) -> bytes:
    head = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *fields, "", ""]
    return "\r\n".join(head).encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@each
@pytest.mark.parametrize("frame", [lambda *a: answer(a[0], "200 OK", *a[1:]), chunked])
def test_all_members_of_a_gzip_body_are_read(face, frame):
    """httpx gives the first one and drops the rest."""
    with serving(answers(frame(PACKED + PACKED, GZIP))) as server, face.client(retrying()) as c:
        r = c.get(server.url)
        assert r.content == TEXT + TEXT
        assert "content-encoding" not in r.headers
        assert "content-length" not in r.headers


@each
def test_deflate_is_read_in_both_forms(face):
    packer = zlib.compressobj(wbits=-15)
    raw = packer.compress(TEXT) + packer.flush()
    for body in (raw, zlib.compress(TEXT)):
        whole = answer(body, "200 OK", "Content-Encoding: deflate")
        with serving(answers(whole)) as server, face.client(retrying()) as c:
            assert c.get(server.url).content == TEXT


@each
def test_a_truncated_gzip_body_is_another_attempts_chance(face):
    bad, good = answer(PACKED[:-9], "200 OK", GZIP), answer(PACKED, "200 OK", GZIP)
    with serving(answers(bad, good)) as server, face.client(retrying()) as c:
        assert c.get(server.url).content == TEXT
        assert len(server.requests) == 2
    with (
        serving(answers(chunked(PACKED[:-9], GZIP))) as server,
        face.client(retrying()) as c,
        pytest.raises(face.lib.RemoteProtocolError, match="ended inside"),
    ):
        c.get(server.url)


@each
def test_a_damaged_gzip_body_is_a_decoding_error_at_once(face):
    bad = bytearray(PACKED)
    bad[-5] ^= 1
    with (
        serving(answers(answer(bytes(bad), "200 OK", GZIP))) as server,
        face.client(retrying()) as c,
    ):
        with pytest.raises(face.lib.DecodingError) as caught:
            c.get(server.url)
        assert caught.value.request.url == server.url
        assert len(server.requests) == 1


@each
def test_a_body_larger_than_max_decoded_is_a_decoding_error(face):
    for raw in (answer(PACKED, "200 OK", GZIP), chunked(PACKED, GZIP)):
        with serving(answers(raw)) as server:
            with face.client(retrying(), max_decoded=len(TEXT)) as c:
                assert c.get(server.url).content == TEXT
            with (
                face.client(retrying(), max_decoded=len(TEXT) - 1) as c,
                pytest.raises(face.lib.DecodingError, match="max_decoded"),
            ):
                c.get(server.url)


@each
def test_only_what_can_be_bounded_is_asked_for_unless_the_user_insists(face):
    with serving(answers(answer())) as server, face.client(retrying()) as c:
        # What httpx asks for of itself, with and without brotli and zstandard installed.
        for automatic in ("gzip, deflate", "gzip, deflate, br", "gzip, deflate, br, zstd"):
            c.get(server.url, headers={"Accept-Encoding": automatic})
            assert server.requests[-1].headers["accept-encoding"] == "gzip, deflate"
        for own in ("br", "zstd, gzip", "identity"):
            c.get(server.url, headers={"Accept-Encoding": own})
            assert server.requests[-1].headers["accept-encoding"] == own


@each
def test_a_coding_that_is_not_ours_is_left_to_the_library(face):
    with (
        serving(answers(answer(b"not really brotli", "200 OK", "Content-Encoding: xyz"))) as server,
        face.client(retrying()) as c,
    ):
        r = c.get(server.url)
        assert r.content == b"not really brotli"
        assert r.headers["content-encoding"] == "xyz"


@each
def test_the_head_of_a_coded_answer_is_kept_as_it_is(face):
    head = f"HTTP/1.1 200 OK\r\n{GZIP}\r\nContent-Length: 1234\r\n\r\n".encode()
    with serving(answers(head)) as server, face.client(retrying()) as c:
        r = c.request("HEAD", server.url)
        assert (r.headers["content-encoding"], r.headers["content-length"]) == ("gzip", "1234")
        assert r.content == b""
    unchanged = f"HTTP/1.1 304 Not Modified\r\n{GZIP}\r\n\r\n".encode()
    with serving(answers(unchanged)) as server, face.client(retrying()) as c:
        assert c.get(server.url).status_code == 304


@each
def test_more_codings_than_two_are_a_decoding_error(face):
    many = answer(PACKED, "200 OK", "Content-Encoding: gzip, gzip, gzip")
    with (
        serving(answers(many)) as server,
        face.client(retrying()) as c,
        pytest.raises(face.lib.DecodingError, match="3 codings"),
    ):
        c.get(server.url)


BOMB = r"""
import asyncio, gzip, importlib, sys
import holdfast as hf
from httpx_faces import answer, answers, serving

lib = importlib.import_module(sys.argv[1])
is_async, streams, ratio = sys.argv[2] == "True", sys.argv[3] == "True", float(sys.argv[4])
data = gzip.compress(bytes(64 << 20)) * 16
policy, options = hf.policy(hf.Deadline(100)), {"max_ratio": ratio}


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


async def arun(url):
    transport = hf.clients.httpx.AsyncTransport(policy, lib.AsyncHTTPTransport(), **options)
    async with lib.AsyncClient(transport=transport) as client:
        if not streams:
            return len((await client.get(url)).content)
        async with client.stream("GET", url) as r:
            return sum([len(piece) async for piece in r.aiter_bytes()])


def run(url):
    transport = hf.clients.httpx.Transport(policy, lib.HTTPTransport(), **options)
    with lib.Client(transport=transport) as client:
        if not streams:
            return len(client.get(url).content)
        with client.stream("GET", url) as r:
            return sum(len(piece) for piece in r.iter_bytes())


def fetch(url):
    return asyncio.run(arun(url)) if is_async else run(url)


with serving(answers(answer())) as server:
    fetch(server.url)  # imports and certificates
head = "HTTP/1.1 200 OK", "Content-Encoding: gzip"
framing = ["Connection: close"] if streams else [f"Content-Length: {len(data)}"]
bomb = "\r\n".join([*head, *framing, "", ""]).encode() + data


def script(connection):
    connection.request()
    connection.send(bomb)


with serving(script) as server:
    before = peak()
    try:
        result = fetch(server.url)
    except lib.DecodingError:
        result = "DecodingError"
    print(result, (peak() - before) // 1024)
"""


@each
def test_a_bomb_of_a_gibibyte_takes_less_than_32_mib(face):
    expected = {
        (False, 100): "DecodingError",
        (True, 2000): str(1 << 30),  # a user who wants it gets it, in pieces
    }
    for (streams, ratio), result in expected.items():
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                BOMB,
                face.lib.__name__,
                str(face.is_async),
                str(streams),
                str(ratio),
            ],
            cwd=str(__file__).rpartition("/")[0],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},  # of the helpers of these tests
            capture_output=True,
            text=True,
            check=True,
        )
        got, mib = done.stdout.split()
        assert got == result
        assert int(mib) < 32
