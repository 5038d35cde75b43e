"""botocore over TLS, where uploads end with a checksum, and cannot be signed with their content."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import struct
import time
import zlib

import pytest
from botocore.exceptions import ConnectionClosedError, SSLError
from clients_botocore_rig import attached, object_answer
from clients_server import serving

import holdfast as hf
from certificates import make
from scripted import FIN, RST, answer

FAST = hf.Exponential(base=0.001, cap=0.002)
CONTENT = hashlib.shake_128(b"tls").digest(200_000)
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tls"), "127.0.0.1", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def context(files):
    return files.server()


def quick(*more):
    given = {type(part) for part in more}
    parts = [hf.Deadline(10), hf.Bulkhead(4), hf.Retry(3, backoff=FAST)]
    return hf.policy(*[part for part in parts if type(part) not in given], *more)


def uploading(*after):
    """Answer upload n with the n-th of `after`, once its body is there."""

    def script(asked):
        if asked.headers.get("expect"):
            yield GO_ON
            yield "body"
        yield from after[min(asked.no, len(after)) - 1]

    return script


def unframed(body):
    """Return the content of an upload in AWS' own chunks, and whether its checksum is right."""
    lines = io.BytesIO(body)
    content = b""
    while size := int(lines.readline(), 16):
        content += lines.read(size)
        lines.readline()
    name, _, value = lines.readline().strip().partition(b":")
    assert name == b"x-amz-checksum-crc32"
    return content, base64.b64decode(value) == struct.pack(">I", zlib.crc32(content))


class Pipe:
    """A body that can only be read."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def read(self, size=-1):
        return self._file.read(size)


@pytest.mark.parametrize("start", [0, 5000])
def test_a_file_with_a_checksum_behind_it_is_sent_again_from_where_it_stood(files, context, start):
    script = uploading([RST], [answer(500)], [answer(200)])
    config = {"verify": files[0]}
    with serving(script, context) as server, attached(server.url, quick(), config=config) as s3:
        file = io.BytesIO(CONTENT)
        file.seek(start)
        s3.put_object(Bucket="bucket", Key="key", Body=file)
    assert [unframed(asked.body) for asked in server.asked] == [(CONTENT[start:], True)] * 3


def test_a_pipe_is_not_sent_twice(files, context):
    config = {"verify": files[0]}
    with serving(uploading([RST]), context) as server:
        with attached(server.url, quick(), config=config) as s3:
            with pytest.raises(ConnectionClosedError) as caught:
                s3.put_object(Bucket="bucket", Key="key", Body=Pipe(CONTENT))
            assert "its body cannot be sent again" in caught.value.__notes__[0]
        assert [unframed(asked.body) for asked in server.asked] == [(CONTENT, True)]


def test_a_pipe_that_is_kept_is_sent_again(files, context):
    script = uploading([RST], [FIN], [answer(200)])
    config = {"verify": files[0]}
    with serving(script, context) as server:
        with attached(server.url, quick(), config=config, replay_buffer=1 << 20) as s3:
            s3.put_object(Bucket="bucket", Key="key", Body=Pipe(CONTENT))
        assert [unframed(asked.body) for asked in server.asked] == [(CONTENT, True)] * 3


def test_a_body_goes_on_over_tls(files, context):
    def script(asked):
        raw = object_answer(asked, CONTENT)
        yield raw[:60_000] if asked.no < 4 else raw
        yield RST if asked.no % 2 else FIN

    config = {"verify": files[0]}
    with serving(script, context) as server:
        with attached(server.url, quick(), config=config, buffer=0) as s3:
            assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == CONTENT
        assert len(server.asked) == 4


def test_an_untrusted_certificate_is_not_worth_repeating(context):
    with serving(lambda asked: [answer(200)], context) as server:
        with attached(server.url, quick()) as s3, pytest.raises(SSLError) as caught:
            s3.head_bucket(Bucket="bucket")
        assert caught.value.__notes__[0].startswith("1 attempt ")
        assert server.asked == []


def test_a_deadline_ends_a_handshake_that_never_does():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with attached(url, quick(hf.Deadline(0.5))) as s3:
            began = time.monotonic()
            with pytest.raises(hf.DeadlineExceeded):
                s3.head_bucket(Bucket="bucket")
            assert time.monotonic() - began < 0.55
