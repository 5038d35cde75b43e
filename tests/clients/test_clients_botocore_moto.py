"""botocore against an S3 server of somebody else (moto), through a proxy that breaks things."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from clients_botocore_rig import attached

import holdfast as hf

FAST = hf.Exponential(base=0.001, cap=0.01)
CONTENT = hashlib.shake_128(b"moto").digest(6 << 20)


def quick():
    return hf.policy(
        hf.Deadline(50), hf.Bulkhead(32), hf.Retry(8, backoff=FAST, budget=None), name="moto"
    )


@contextmanager
def breaking(target, *, every):
    """A proxy that resets each connection after about `every` bytes of answers."""
    place = urlsplit(target)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    count = [0]

    def pump(source, sink, limit):
        given = 0
        with suppress(OSError):
            while piece := source.recv(65536):
                if limit is not None and given + len(piece) > limit:
                    sink.sendall(piece[: limit - given])
                    count[0] += 1
                    break
                given += len(piece)
                sink.sendall(piece)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(client):
        with client, socket.create_connection((place.hostname, place.port)) as server:
            up = threading.Thread(target=pump, args=(client, server, None))
            up.start()
            pump(server, client, every)
            up.join(10)

    def accept():
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", count
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_objects_go_in_and_out(moto):
    with attached(moto, quick()) as s3:
        s3.create_bucket(Bucket="plain")
        s3.put_object(Bucket="plain", Key="small", Body=b"abc")
        assert s3.get_object(Bucket="plain", Key="small")["Body"].read() == b"abc"
        s3.put_object(Bucket="plain", Key="large", Body=io.BytesIO(CONTENT))
        assert s3.get_object(Bucket="plain", Key="large")["Body"].read() == CONTENT
        assert s3.head_object(Bucket="plain", Key="large")["ContentLength"] == len(CONTENT)
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="plain")["Contents"]]
        assert keys == ["large", "small"]
        with pytest.raises(s3.exceptions.NoSuchKey):
            s3.get_object(Bucket="plain", Key="none")
        s3.delete_objects(Bucket="plain", Delete={"Objects": [{"Key": key} for key in keys]})
        assert "Contents" not in s3.list_objects_v2(Bucket="plain")


@pytest.mark.parametrize("checksum", ["SHA256", "CRC32"])
def test_a_large_object_comes_whole_through_a_line_that_breaks_every_megabyte(moto, checksum):
    with breaking(moto, every=1_000_000) as (url, count), attached(url, quick()) as s3:
        s3.create_bucket(Bucket=f"broken-{checksum.lower()}")
        bucket = f"broken-{checksum.lower()}"
        s3.put_object(Bucket=bucket, Key="key", Body=CONTENT, ChecksumAlgorithm=checksum)
        body = s3.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")["Body"]
        assert body.read() == CONTENT
        assert count[0] >= 6


def test_boto3_transfers_files_over_that_line_with_its_ten_threads(moto, tmp_path):
    config = TransferConfig(
        multipart_threshold=1 << 20, multipart_chunksize=5 << 20, num_download_attempts=1
    )
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(CONTENT * 4)
    with breaking(moto, every=700_000) as (url, count), attached(url, quick()) as s3:
        s3.create_bucket(Bucket="transfers")
        s3.upload_file(str(source), "transfers", "key", Config=config)
        s3.download_file("transfers", "key", str(target), Config=config)
        assert target.read_bytes() == CONTENT * 4
        assert count[0] >= 20


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(moto):
    with breaking(moto, every=1_000_000) as (url, _), attached(url, quick()) as s3:
        s3.create_bucket(Bucket="replaced")
        s3.put_object(Bucket="replaced", Key="key", Body=CONTENT)
        body = s3.get_object(Bucket="replaced", Key="key")["Body"]
        assert body.read(1000) == CONTENT[:1000]
        s3.put_object(Bucket="replaced", Key="key", Body=CONTENT[::-1])
        with pytest.raises(ClientError) as caught:
            body.read()
        assert caught.value.response["Error"]["Code"] == "PreconditionFailed"
