"""botocore: answers that are cut at any byte. Never a short body, never a hang."""

from __future__ import annotations

import errno
import gzip
import json
import resource
import socket
import threading
import time
from dataclasses import replace

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError
from clients_botocore_rig import attached, bare
from clients_server import serving
from clients_shapes import (
    BODY,
    FAULTS,
    PACKED,
    SHAPES,
    Case,
    cases,
    chunked,
    cutter,
    head,
    raw_deflate,
    sweep,
    unfinished,
    wrong,
)

import holdfast as hf
from scripted import FIN, HOLE, RST

DEADLINE = 0.25
POLICY = hf.policy(
    hf.Deadline(DEADLINE),
    hf.Bulkhead(64),
    hf.Retry(2, backoff=hf.Constant(0.001), budget=None),
    name="cuts",
)

# botocore hands bodies out as they are on the wire, and leaves redirects to S3's rules.
_BODIES = {
    "gzip": PACKED, "gzip_chunked": PACKED, "gzip_close": PACKED,
    "deflate_chunked": raw_deflate(BODY), "redirect": b"",
}  # fmt: skip
_AS_SEEN = {
    shape.name: replace(
        shape,
        body=_BODIES.get(shape.name, shape.body),
        status=302 if shape.name == "redirect" else shape.status,
    )
    for shape in SHAPES
}


def experiments(*, times, every, faults=FAULTS):
    """All cuts, less those that nobody can see: the end of a body that ends with its connection."""
    return [
        replace(case, shape=_AS_SEEN[case.shape.name])
        for case in cases(every=every, times=times, faults=faults)
        if not (case.shape.closes and case.fault == "fin" and case.at > _head_of(case))
    ]


def _head_of(case: Case) -> int:
    return case.shape.raw.index(b"\r\n\r\n") + 3


def fetching(s3):
    def fetch(method, url):
        _, _, _, bucket, key = url.split("/", 4)
        try:
            if method == "HEAD":
                found = s3.head_object(Bucket=bucket, Key=key)
                return found["ResponseMetadata"]["HTTPStatusCode"], b""
            found = s3.get_object(Bucket=bucket, Key=key)
            with found["Body"] as raw:
                return found["ResponseMetadata"]["HTTPStatusCode"], raw.read()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status != 302:
                raise
            return status, b""

    return fetch


def run(todo, policy=POLICY, **options):
    config = {"max_pool_connections": 64}
    with cutter() as server:
        with attached(f"http://127.0.0.1:{server.port}", policy, config=config, **options) as s3:
            results = sweep(server, fetching(s3), todo, threads=24)
        assert server.quiet()
    assert wrong(results) == []
    return results


def run_for_good(every, buffer):
    """Cut all answers, at each `every`-th byte."""
    results = run(experiments(times=10_000, every=every), buffer=buffer)
    # Chunks are whole when the last one is, whatever follows it; the other shapes at their end.
    others = [one for one in results if "chunked" not in one.case.shape.name]
    cut = [one for one in others if not one.case.whole and one.case.shape.name != "trailers"]
    assert all(isinstance(one.outcome, BaseException) for one in cut)
    # How exact the deadline is, other tests show: here dozens of threads share two processors.
    assert [one for one in results if one.seconds > DEADLINE + 2.0] == []


@pytest.mark.parametrize("buffer", [0, 1 << 20])
def test_no_cut_gives_a_short_body_or_a_hang(buffer):
    run_for_good(7, buffer)


def test_a_single_cut_of_an_answer_that_is_read_in_the_attempt_is_survived():
    patient = POLICY.but(hf.Deadline(20))
    results = run(experiments(times=1, every=7, faults=("rst", "fin")), patient)
    # Bodies whose length is not told are handed out while they come, and cannot be taken back.
    handed_out = {"gzip_close", "chunked", "trailers", "gzip_chunked", "deflate_chunked"}
    assert {name for name, _, _ in unfinished(results)} <= handed_out


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("buffer", [0, 1 << 20])
def test_no_cut_at_any_byte_gives_a_short_body_or_a_hang(buffer):
    run_for_good(1, buffer)


# -- answers that botocore parses ----------------------------------------------------------------

LISTING = (
    b'<?xml version="1.0"?><ListBucketResult><KeyCount>2</KeyCount><Contents><Key>one</Key>'
    b"</Contents><Contents><Key>two</Key></Contents></ListBucketResult>"
)
ITEM = json.dumps({"Item": {"name": {"S": "x" * 20}}}).encode()
PARSED = {
    "xml_length": ("s3", LISTING, False),
    "xml_chunked": ("s3", LISTING, True),
    "json_length": ("dynamodb", ITEM, False),
    "json_chunked": ("dynamodb", ITEM, True),
}


def ask(client, service):
    if service == "s3":
        found = client.list_objects_v2(Bucket="bucket")
        return [entry["Key"] for entry in found["Contents"]] == ["one", "two"]
    found = client.get_item(TableName="t", Key={"k": {"S": "1"}})
    return found["Item"]["name"]["S"] == "x" * 20


@pytest.mark.parametrize("name", PARSED)
def test_no_cut_of_a_parsed_answer_gives_a_part_of_it(name):
    service, body, in_chunks = PARSED[name]
    if in_chunks:
        raw = head("200 OK", "Transfer-Encoding: chunked") + chunked(body)
        enough = len(raw) - 2  # all but the blank line behind the last chunk
    else:
        raw = head("200 OK", f"Content-Length: {len(body)}") + body
        enough = len(raw)
    todo = [(fault, at) for at in range(0, len(raw), 3) for fault in (RST, FIN)]
    todo += [(HOLE, at) for at in range(0, len(raw), 40)]
    local = threading.local()

    def script(asked):
        fault, at = todo[int(asked.headers["x-case"])]
        yield raw[:at]
        yield fault

    with serving(script) as server, attached(server.url, POLICY, service) as client:
        client.meta.events.register_first(
            "before-call",
            lambda params, **_: params["headers"].update({"X-Case": str(local.case)}),
        )
        for number, (fault, at) in enumerate(todo):
            local.case = number
            began = time.monotonic()
            if at < enough:
                with pytest.raises(Exception):  # noqa: B017, PT011 - which one is not the point
                    ask(client, service)
            elif fault == FIN:
                assert ask(client, service)
            assert time.monotonic() - began < DEADLINE + 2.0
    assert POLICY.state()["active"] == 0


# -- what is not a cut -----------------------------------------------------------------------------


def test_a_compressed_bomb_is_handed_out_as_it_is_and_takes_no_memory():
    bomb = gzip.compress(bytes(64 << 20))
    while len(bomb) < 1 << 20:  # 1 GiB once unpacked
        bomb += bomb
    raw = head("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + bomb

    def script(asked):
        yield raw

    with serving(script) as server:
        for buffer in (0, 1 << 30):
            with attached(server.url, hf.policy(hf.Retry()), buffer=buffer) as s3:
                s3.head_bucket(Bucket="bucket")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                found = s3.get_object(Bucket="bucket", Key="key")
                assert found["Body"].read() == bomb
                after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                assert after - before < 32 << 10


def test_no_file_descriptors_left_is_our_own_fault_and_no_mark_against_the_server(monkeypatch):
    policy = hf.policy(hf.Retry(1), hf.Breaker(consecutive=1), order="free")
    real = socket.socket

    class Full(real):
        def __init__(self, *args, **kwargs):
            raise OSError(errno.EMFILE, "Too many open files")

    script = lambda asked: [head("200 OK", "Content-Length: 0")]  # noqa: E731 - one line
    with serving(script) as server, attached(server.url, policy) as s3:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Full)
            with pytest.raises(EndpointConnectionError, match=r"127\.0\.0\.1"):
                s3.head_bucket(Bucket="bucket")
        assert policy.state()["circuit"] == "closed"
        assert policy.state()["failures"] == 0
        s3.head_bucket(Bucket="bucket")


def test_a_dead_backend_sees_little_more_than_what_was_offered():
    policy = hf.policy(hf.Retry(3, backoff=hf.Constant(0.0)))
    with serving(lambda asked: [head("500 Dead", "Content-Length: 0")]) as server:
        with attached(server.url, policy) as s3:
            for _ in range(1000):
                with pytest.raises(ClientError):
                    s3.head_bucket(Bucket="bucket")
        assert len(server.asked) <= 1050


def test_the_pool_of_another_client_is_not_touched():
    client = bare("http://127.0.0.1:9")
    before = client._endpoint.http_session._pool_classes_by_scheme["http"]
    other = hf.clients.botocore.attach(bare("http://127.0.0.1:9"), POLICY)
    assert other._endpoint.http_session._pool_classes_by_scheme["http"] is not before
    assert (
        bare("http://127.0.0.1:9")._endpoint.http_session._pool_classes_by_scheme["http"] is before
    )
    assert Config().retries is None
    client.close()
    other.close()
