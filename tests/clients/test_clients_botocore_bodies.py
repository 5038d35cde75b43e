"""botocore: streamed answers, and how they go on after a cut."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import struct
import threading
import time
import zlib

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from clients_botocore_rig import attached, bare, etag, object_answer, s3_error
from clients_server import attempts_of, listening, serving

import holdfast as hf
from scripted import FIN, HOLE, RST, answer

FAST = hf.Exponential(base=0.001, cap=0.002)
CONTENT = hashlib.shake_128(b"content").digest(300_000)
OTHER = hashlib.shake_128(b"other").digest(300_000)


def quick(*more, attempts=3):
    given = {type(part) for part in more}
    retry = hf.Retry(attempts, backoff=FAST, budget=None)
    parts = [hf.Deadline(10), hf.Bulkhead(4), retry]
    return hf.policy(*[part for part in parts if type(part) not in given], *more, order="free")


def cut_after(size, fault, *, times=10_000, content=CONTENT):
    """Give `size` bytes of each answer's body and then `fault`, for the first `times`."""

    def script(asked):
        raw = object_answer(asked, content)
        if asked.no > times:
            yield raw
            return
        head = raw.index(b"\r\n\r\n") + 4
        yield raw[: head + size]
        if head + size < len(raw):
            yield fault

    return script


def read_whole(body):
    return body.read()


def read_small(body):
    pieces = []
    while piece := body.read(1000):
        pieces.append(piece)
    return b"".join(pieces)


def read_chunks(body):
    return b"".join(body.iter_chunks(4096))


def read_into(body):
    found = bytearray()
    space = bytearray(70_000)
    while size := body.readinto(space):
        found += space[:size]
    return bytes(found)


def read_raw(body):
    with body as raw:
        return b"".join(raw.stream(5000))


WAYS = [
    read_whole,
    read_small,
    read_chunks,
    pytest.param(read_into, marks=pytest.mark.newest),  # `readinto` came with botocore 1.37
    read_raw,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", [RST, FIN])
def test_a_body_goes_on_after_a_cut_without_repeating_a_byte(way, fault):
    policy = quick()
    script = cut_after(100_000, fault, times=2)
    with serving(script) as server, attached(server.url, policy, buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert policy.state()["active"] == 1
        assert way(body) == CONTENT
        assert policy.state()["active"] == 0
        for before, asked in zip(server.asked, server.asked[1:], strict=False):
            assert asked.headers["if-match"] == etag(CONTENT)
            assert asked.range[0] > (before.range or (0, 0))[0]
            assert asked.range[1] == len(CONTENT) - 1
        assert len(server.asked) == 3


def test_fifty_cuts_with_progress_between_them_are_survived():
    script = cut_after(6_000, RST)
    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert b"".join(iter(lambda: body.read(1000), b"")) == CONTENT
        assert len(server.asked) >= 50


def test_cuts_without_progress_use_up_the_attempts():
    def script(asked):
        raw = object_answer(asked, CONTENT)
        yield raw[: raw.index(b"\r\n\r\n") + 4 + (70_000 if asked.no == 1 else 0)]
        yield FIN

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert body.read(65536) == CONTENT[:65536]
        with pytest.raises(ResponseStreamingError):
            body.read()
        # Two more after the one that made progress; each told nothing.
        assert len(server.asked) == 3
        with pytest.raises(ResponseStreamingError):  # and no short body afterwards
            body.read(1)


def test_a_small_object_is_read_in_the_attempt_and_repeated_whole():
    with serving(cut_after(10_000, FIN, times=1)) as server:
        with attached(server.url, quick()) as s3:
            body = s3.get_object(Bucket="bucket", Key="key")["Body"]
            body.set_socket_timeout(3)
            assert body.read(10) == CONTENT[:10]
            assert body.tell() == 10
            assert body.read() == CONTENT[10:]
        assert [asked.range for asked in server.asked] == [None, None]


def test_a_changed_object_is_an_error_and_not_a_mixture():
    def script(asked):
        if asked.no == 1:
            yield from cut_after(100_000, RST)(asked)
        else:
            yield object_answer(asked, OTHER)

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        with pytest.raises(ClientError) as caught:
            body.read()
        assert caught.value.response["Error"]["Code"] == "PreconditionFailed"
        assert "the object was changed while it was read" in caught.value.__notes__
        assert len(server.asked) == 2


def test_a_server_without_if_match_does_not_get_a_mixture_through():
    def script(asked):
        if asked.no == 1:
            yield from cut_after(100_000, RST)(asked)
        else:
            asked.headers.pop("if-match")
            yield object_answer(asked, OTHER)

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        with pytest.raises(ClientError, match="changed while it was read"):
            body.read()
        assert server.quiet()


def test_a_server_that_ignores_range_is_read_up_to_the_place():
    def script(asked):
        times = asked.no
        asked.headers.pop("range", None)
        raw = object_answer(asked, CONTENT)
        if times == 1:
            yield raw[:150_000]
            yield RST
        else:
            yield raw

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == CONTENT


def test_a_part_at_the_wrong_place_is_not_taken():
    def script(asked):
        if asked.no == 1:
            yield from cut_after(100_000, RST)(asked)
        else:
            place = f"Content-Range: bytes 5-299999/{len(CONTENT)}"
            yield answer(206, CONTENT[5:], f"ETag: {etag(CONTENT)}", place)

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        with pytest.raises(ResponseStreamingError, match="asked for bytes"):
            s3.get_object(Bucket="bucket", Key="key")["Body"].read()
        assert len(server.asked) == 3
        assert server.quiet()


def test_a_range_of_the_user_goes_on_inside_itself():
    with serving(cut_after(70_000, FIN)) as server:
        with attached(server.url, quick(), buffer=0) as s3:
            found = s3.get_object(Bucket="bucket", Key="key", Range="bytes=50000-249999")
            assert found["Body"].read() == CONTENT[50_000:250_000]
        assert all(asked.range[1] == 249_999 for asked in server.asked)


def test_the_parameters_of_the_user_are_kept():
    with serving(cut_after(100_000, FIN, times=1)) as server:
        with attached(server.url, quick(), buffer=0) as s3:
            key = b"k" * 32
            s3.get_object(
                Bucket="bucket", Key="key", SSECustomerAlgorithm="AES256", SSECustomerKey=key,
                RequestPayer="requester", VersionId="7", IfNoneMatch='"z"',
            )["Body"].read()  # fmt: skip
        first, second = server.asked
    encoded = base64.b64encode(b"k" * 32).decode()
    for asked in (first, second):
        assert asked.headers["x-amz-server-side-encryption-customer-key"] == encoded
        assert asked.headers["x-amz-request-payer"] == "requester"
        assert "versionId=7" in asked.target
    assert "if-none-match" in first.headers
    assert "if-none-match" not in second.headers


@pytest.mark.parametrize("tag", ['W/"1"', ""])
def test_without_a_strong_etag_a_body_is_not_gone_on_with(tag):
    def script(asked):
        raw = answer(200, CONTENT, f"ETag: {tag}")
        yield raw[:100_000]
        yield RST

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        with pytest.raises(ResponseStreamingError):
            s3.get_object(Bucket="bucket", Key="key")["Body"].read()
        assert len(server.asked) == 1


def test_a_refusal_while_going_on_is_repeated():
    def script(asked):
        if asked.no == 2:
            yield s3_error(503, "SlowDown")
        else:
            yield from cut_after(200_000, RST, times=1)(asked)

    with (
        serving(script) as server,
        listening() as events,
        attached(server.url, quick(), buffer=0) as s3,
    ):
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == CONTENT
    attempts = attempts_of(events)
    assert [event.kind for event in attempts] == ["transient", "throttled", "ok"]
    assert len({event.call_id for event in attempts}) == 1


def test_a_refusal_for_good_while_going_on_is_raised():
    def script(asked):
        if asked.no == 2:
            yield s3_error(403, "AccessDenied")
        else:
            yield from cut_after(100_000, RST)(asked)

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.get_object(Bucket="bucket", Key="key")["Body"].read()
        assert len(server.asked) == 2


# -- checks of the whole body ------------------------------------------------------------------


def crc32(content):
    return (
        "x-amz-checksum-crc32: " + base64.b64encode(struct.pack(">I", zlib.crc32(content))).decode()
    )


def test_the_checksum_is_that_of_the_joined_body():
    def script(asked):
        raw = object_answer(asked, CONTENT, *([crc32(CONTENT)] if asked.no == 1 else []))
        yield raw[:100_000] if asked.no == 1 else raw
        if asked.no == 1:
            yield RST

    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert type(body).__name__ == "StreamingChecksumBody"
        assert body.read() == CONTENT


@pytest.mark.parametrize("buffer", [0, 1 << 20])
def test_a_wrong_checksum_is_an_error(buffer):
    def script(asked):
        yield object_answer(asked, CONTENT, crc32(OTHER))

    with serving(script) as server, attached(server.url, quick(), buffer=buffer) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        with pytest.raises(FlexibleChecksumError):
            body.read()


def test_a_short_body_of_another_operation_is_an_error():
    def script(asked):
        yield answer(200, b"x" * 1000, length=5000)
        yield FIN

    with serving(script) as server, attached(server.url, quick(), "lambda", buffer=0) as client:
        payload = client.invoke(FunctionName="f")["Payload"]
        with pytest.raises((ResponseStreamingError, IncompleteReadError)):
            payload.read()
        assert len(server.asked) == 1


# -- streams of events -------------------------------------------------------------------------


def event(kind, payload):
    headers = b""
    for name, value in ((b":message-type", b"event"), (b":event-type", kind)):
        headers += struct.pack(">B", len(name)) + name + struct.pack(">BH", 7, len(value)) + value
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = head + struct.pack(">I", zlib.crc32(head)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


EVENTS = [event(b"Records", b"one"), event(b"Records", b"two"), event(b"End", b"")]


def selecting(s3):
    return s3.select_object_content(
        Bucket="bucket", Key="key", Expression="select", ExpressionType="SQL",
        InputSerialization={"CSV": {}}, OutputSerialization={"CSV": {}},
    )["Payload"]  # fmt: skip


def streaming(*parts, end=b"0\r\n\r\n"):
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield end


def test_events_are_handed_out_when_they_come():
    go_on = threading.Event()

    def script(asked):
        yield from streaming(EVENTS[0], end=b"")
        assert go_on.wait(5)
        yield from list(streaming(*EVENTS[1:]))[1:]

    policy = quick()
    with serving(script) as server, attached(server.url, policy) as s3:
        events = iter(selecting(s3))
        assert next(events)["Records"]["Payload"] == b"one"
        assert policy.state()["active"] == 1
        go_on.set()
        assert [next(iter(one)) for one in events] == ["Records", "End"]
        assert policy.state()["active"] == 0


@pytest.mark.parametrize("fault", [RST, FIN])
def test_a_stream_of_events_that_is_cut_is_an_error(fault):
    def script(asked):
        yield from streaming(EVENTS[0], EVENTS[1][:20], end=b"")
        yield fault

    with serving(script) as server, attached(server.url, quick()) as s3:
        events = iter(selecting(s3))
        with pytest.raises(ResponseStreamingError):
            list(events)
        assert len(server.asked) == 1


# -- the interface of a body -------------------------------------------------------------------


def test_lines_and_text_come_as_ever():
    text = "".join(f"line {n}\n" for n in range(20_000)).encode()
    script = cut_after(100_000, FIN, content=text)
    with serving(script) as server, attached(server.url, quick(), buffer=0) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert list(body.iter_lines()) == text.splitlines()
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        assert io.TextIOWrapper(body, "utf-8").read().encode() == text
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        with body as raw:
            assert raw.readable()
            assert raw.readline() == b"line 0\n"
            assert raw.tell() == 7
            assert raw.status == 200


def test_a_body_that_is_closed_early_gives_everything_back():
    policy = quick(hf.Bulkhead(1))
    with serving(cut_after(len(CONTENT), FIN)) as server:
        with attached(server.url, policy, buffer=0) as s3:
            for _ in range(3):
                with s3.get_object(Bucket="bucket", Key="key")["Body"] as raw:
                    raw.read(10)
            s3.get_object(Bucket="bucket", Key="key")["Body"].close()
        assert server.quiet()


def forget(s3):
    s3.get_object(Bucket="bucket", Key="key")
    gc.collect()


def test_a_body_that_is_forgotten_is_told_of_and_gives_everything_back():
    policy = quick()
    with serving(cut_after(len(CONTENT), FIN)) as server:
        with attached(server.url, policy, buffer=0) as s3:
            with pytest.warns(ResourceWarning, match="neither read to its end nor closed"):
                forget(s3)
            assert policy.state()["active"] == 0
        assert server.quiet()


def test_a_deadline_ends_the_reading_of_a_body_that_drips():
    def script(asked):
        raw = object_answer(asked, CONTENT)
        for at in range(0, 3000, 1):
            yield raw[at : at + 1]
            yield 0.0 if at < 400 else 0.3

    with serving(script) as server, attached(server.url, quick(hf.Deadline(1)), buffer=0) as s3:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")["Body"].read()
        assert 0.95 < time.monotonic() - began < 1.05


def test_silence_in_a_body_is_a_timeout_and_the_body_goes_on():
    script = cut_after(100_000, HOLE, times=1)
    config = {"read_timeout": 0.2}
    policy = quick()
    with serving(script) as server, attached(server.url, policy, buffer=0, config=config) as s3:
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == CONTENT


def test_silence_for_good_in_a_body_is_a_read_timeout():
    script = cut_after(100_000, HOLE, times=1)
    config = {"read_timeout": 0.1}
    policy = quick(attempts=1)
    with serving(script) as server, attached(server.url, policy, buffer=0, config=config) as s3:
        body = s3.get_object(Bucket="bucket", Key="key")["Body"]
        with pytest.raises(ReadTimeoutError):
            body.read()


def test_an_unread_body_survives_its_client():
    policy = quick()
    with serving(cut_after(100_000, RST, times=1)) as server:
        client = hf.clients.botocore.attach(bare(server.url), policy, buffer=0)
        body = client.get_object(Bucket="bucket", Key="key")["Body"]
        close = client.close
        del client
        gc.collect()
        assert body.read() == CONTENT
        close()
    assert policy.state()["active"] == 0


# -- s3transfer --------------------------------------------------------------------------------


def test_transfers_of_boto3_go_through_a_bad_line():
    content = hashlib.shake_128(b"large").digest(3_000_000)

    def script(asked):
        if asked.method == "HEAD":
            yield answer(200, b"", f"ETag: {etag(content)}", length=len(content))
            return
        yield from cut_after(400_000, RST if asked.no % 2 else FIN, content=content)(asked)

    config = TransferConfig(
        multipart_threshold=1_000_000, multipart_chunksize=1_000_000, num_download_attempts=1
    )
    policy = quick(hf.Bulkhead(20))
    with serving(script) as server, attached(server.url, policy, buffer=0) as s3:
        into = io.BytesIO()
        s3.download_fileobj("bucket", "key", into, Config=config)
    assert into.getvalue() == content


def test_uploads_of_boto3_go_through_a_bad_line():
    content = hashlib.shake_128(b"upload").digest(11_000_000)
    parts = {}

    def script(asked):
        if asked.no % 3 == 0:
            yield RST
        elif asked.method == "POST" and "uploads" in asked.target:
            yield answer(200, b"<R><UploadId>u</UploadId></R>")
        elif asked.method == "PUT":
            number = int(asked.target.split("partNumber=")[1].split("&")[0])
            if asked.headers.get("expect"):
                yield b"HTTP/1.1 100 Continue\r\n\r\n"
                yield "body"
            parts[number] = asked.body
            yield answer(200, b"", f"ETag: {etag(asked.body)}")
        else:
            yield answer(200, b"<R><ETag>e</ETag></R>")

    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    with serving(script) as server, attached(server.url, quick(hf.Bulkhead(20))) as s3:
        s3.upload_fileobj(io.BytesIO(content), "bucket", "key", Config=config)
    assert b"".join(parts[number] for number in sorted(parts)) == content
