"""botocore: request bodies that are sent more than once, or must not be."""

from __future__ import annotations

import io
import time

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from clients_botocore_rig import attached
from clients_server import serving

import holdfast as hf
from scripted import FIN, HOLE, RST, answer

FAST = hf.Exponential(base=0.001, cap=0.002)
CONTENT = bytes(range(256)) * 800
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


def quick(*more):
    return hf.policy(hf.Deadline(10), hf.Bulkhead(4), hf.Retry(3, backoff=FAST), *more)


def expecting(*after):
    """Answer request n, body and all, with the n-th of `after`; the last for all that follow."""

    def script(asked):
        if asked.headers.get("expect"):
            yield GO_ON
            yield "body"
        yield from after[min(asked.no, len(after)) - 1]

    return script


class Pipe:
    """A body that can only be read."""

    def __init__(self, content, *, piece=1 << 20):
        self._file = io.BytesIO(content)
        self._piece = piece

    def read(self, size=-1):
        return self._file.read(size if size < 0 else min(size, self._piece))


def unsigned(s3):
    """What cannot seek cannot be hashed before it is sent: S3 takes it unsigned then."""
    s3.meta.events.register("choose-signer.s3", lambda **_: UNSIGNED)


@pytest.mark.parametrize("fault", [RST, FIN])
@pytest.mark.parametrize("start", [0, 5000])
def test_a_file_is_sent_again_from_where_it_stood(fault, start):
    with serving(expecting([fault], [answer(500)], [answer(200)])) as server:
        with attached(server.url, quick()) as s3:
            file = io.BytesIO(CONTENT)
            file.seek(start)
            s3.put_object(Bucket="bucket", Key="key", Body=file)
        assert [asked.body for asked in server.asked] == [CONTENT[start:]] * 3
        assert len({asked.headers["x-amz-checksum-crc32"] for asked in server.asked}) == 1


def test_a_file_over_a_stale_connection_is_sent_again_from_where_it_stood():
    def script(asked):
        if asked.turn == 2:
            yield RST
        else:
            yield from expecting([answer(200)])(asked)

    with serving(script) as server, attached(server.url, quick()) as s3:
        for _ in range(2):
            file = io.BytesIO(CONTENT)
            file.seek(7000)
            s3.put_object(Bucket="bucket", Key="key", Body=file)
        assert len(server.asked) == 3
        assert server.asked[2].body == CONTENT[7000:]


def test_what_cannot_seek_is_not_sent_twice():
    with serving(expecting([RST])) as server, attached(server.url, quick()) as s3:
        unsigned(s3)
        with pytest.raises(ConnectionClosedError) as caught:
            s3.put_object(
                Bucket="bucket", Key="key", Body=Pipe(CONTENT), ContentLength=len(CONTENT),
                ChecksumCRC32="AAAAAA==",
            )  # fmt: skip
        assert "its body cannot be sent again" in caught.value.__notes__[0]
        assert [asked.body for asked in server.asked] == [CONTENT]


def test_what_cannot_seek_is_sent_again_if_it_was_kept():
    with serving(expecting([RST], [answer(200)])) as server:
        with attached(server.url, quick(), replay_buffer=1 << 20) as s3:
            unsigned(s3)
            s3.put_object(
                Bucket="bucket", Key="key", Body=Pipe(CONTENT), ContentLength=len(CONTENT),
                ChecksumCRC32="AAAAAA==",
            )  # fmt: skip
        assert [asked.body for asked in server.asked] == [CONTENT] * 2


def test_what_cannot_seek_is_repeated_while_nothing_of_it_was_read():
    with serving(expecting([RST])) as server:
        port = server.port
    with attached(f"http://127.0.0.1:{port}", quick()) as s3:
        unsigned(s3)
        with pytest.raises(EndpointConnectionError) as caught:
            s3.put_object(
                Bucket="bucket", Key="key", Body=Pipe(CONTENT), ContentLength=len(CONTENT),
                ChecksumCRC32="AAAAAA==",
            )  # fmt: skip
        assert caught.value.__notes__[0].startswith("3 attempts")


@pytest.mark.parametrize("at", [1, 7, 14, 30, 45])
@pytest.mark.parametrize("fault", [RST, FIN])
def test_a_connection_that_ends_while_100_is_awaited_is_an_error(at, fault):
    interim = b"HTTP/1.1 100 Continue\r\nConnection: keep-alive\r\n\r\n"

    def script(asked):
        if asked.no == 1:
            yield interim[:at]
            yield fault
        else:
            yield from expecting([answer(200)])(asked)

    with serving(script) as server, attached(server.url, quick()) as s3:
        s3.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(CONTENT))
        assert [asked.body for asked in server.asked] == [b"", CONTENT]


def test_silence_within_a_100_ends_at_the_deadline():
    def script(asked):
        yield b"HTTP/1.1 100 Continue\r\n"
        yield HOLE

    policy = hf.policy(hf.Deadline(0.5), hf.Retry(3, backoff=FAST))
    with serving(script) as server, attached(server.url, policy) as s3:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            s3.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(CONTENT))
        assert time.monotonic() - began < 0.55


@pytest.mark.parametrize("reason", ["Service Unavailable", ""])
def test_a_final_answer_instead_of_100_is_taken_without_sending_the_body(reason):
    def script(asked):
        if asked.no == 1:
            yield answer(503, b"", "x-amz-retry-after: 1", reason=reason)
            yield FIN
        else:
            yield from expecting([answer(200)])(asked)

    with serving(script) as server, attached(server.url, quick()) as s3:
        s3.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(CONTENT))
        assert [asked.body for asked in server.asked] == [b"", CONTENT]


@pytest.mark.parametrize("at", range(2, 60, 7))
def test_a_final_answer_instead_of_100_that_is_cut_is_an_error(at):
    raw = answer(200, b"", "ETag: 1", "X-More: yes")[:-1]

    def script(asked):
        if asked.no == 1:
            yield raw[:at]
            yield FIN
        else:
            yield from expecting([answer(200)])(asked)

    with serving(script) as server, attached(server.url, quick()) as s3:
        s3.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(CONTENT))
        assert len(server.asked) == 2
