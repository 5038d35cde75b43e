"""botocore: what becomes of one call."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
import zlib

import boto3
import pytest
from botocore.exceptions import (
    ChecksumError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
)
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber
from clients_botocore_rig import attached, bare, json_error, object_answer, s3_error
from clients_server import attempts_of, listening, serving

import holdfast as hf
from scripted import FIN, HOLE, RST, answer

FAST = hf.Exponential(base=0.001, cap=0.002)
BODY = b"x" * 1000


def quick(*more, attempts=3, **options):
    """A policy whose waits are milliseconds."""
    given = {type(part) for part in more}
    parts = [hf.Deadline(10), hf.Bulkhead(8), hf.Retry(attempts, backoff=FAST)]
    kept = [part for part in parts if type(part) not in given]
    return hf.policy(*kept, *more, order="free", **options)


def in_turn(*answers):
    """Answer request n with the n-th; the last one for all that follow."""

    def script(asked):
        return answers[min(asked.no, len(answers)) - 1]

    return script


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_botocore_itself_repeats_nothing(mode):
    script, policy = in_turn([s3_error(503, "SlowDown")]), quick(attempts=1)
    with serving(script) as server, attached(server.url, policy, mode=mode) as s3:
        with pytest.raises(ClientError, match="SlowDown"):
            s3.get_object(Bucket="bucket", Key="key")
        assert len(server.asked) == 1


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_a_repeated_call_is_signed_anew_and_counted(mode):
    script = in_turn([answer(503), FIN], [RST], [answer(200, BODY)])
    with serving(script) as server, attached(server.url, quick(), mode=mode) as s3:
        signed = []
        s3.meta.events.register("before-sign.s3", lambda **_: signed.append(1))
        found = s3.get_object(Bucket="bucket", Key="key")
        assert found["Body"].read() == BODY
        assert found["ResponseMetadata"]["RetryAttempts"] == 2
    tries = [asked.headers["amz-sdk-request"] for asked in server.asked]
    assert [text.split("attempt=")[1][0] for text in tries] == ["1", "2", "3"]
    assert all("max=3" in text for text in tries)
    assert len(signed) == 3


def test_adaptive_mode_is_refused_with_a_way_out():
    client = bare("http://127.0.0.1:9", mode="adaptive")
    with pytest.raises(ValueError, match=r"standard.*RateLimit\.adaptive"):
        hf.clients.botocore.attach(client, quick())
    client.close()


def test_what_cannot_be_attached_to_is_refused():
    client = hf.clients.botocore.attach(bare("http://127.0.0.1:9"), quick())
    with pytest.raises(ValueError, match="already"):
        hf.clients.botocore.attach(client, quick())
    client.close()
    with pytest.raises(TypeError, match="botocore client"):
        hf.clients.botocore.attach(object(), quick())
    client = bare("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="no operation SendMessage"):
        hf.clients.botocore.attach(client, quick(), idempotent="SendMessage")
    with pytest.raises(ValueError, match="Idempotency-Key"):
        hf.clients.botocore.attach(client, hf.policy(hf.Retry(3, idempotency_key=True)))
    client.close()


def test_other_clients_of_the_session_stay_as_they_are():
    session = boto3.session.Session()
    options = {
        "endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1",
        "aws_access_key_id": "a", "aws_secret_access_key": "b",
    }  # fmt: skip
    one, other = session.client("s3", **options), session.client("s3", **options)
    before = (
        type(other._endpoint.http_session),
        other._endpoint.http_session._pool_classes_by_scheme,
    )
    hf.clients.botocore.attach(one, quick())
    assert before == (
        type(other._endpoint.http_session),
        other._endpoint.http_session._pool_classes_by_scheme,
    )
    assert "retry-config-s3" in other.meta.events._emitter._unique_id_handlers
    one.close()
    other.close()


def test_after_the_last_attempt_the_client_error_comes_as_ever():
    with serving(in_turn([s3_error(500, "InternalError")])) as server:
        with attached(server.url, quick()) as s3, pytest.raises(ClientError) as caught:
            s3.head_bucket(Bucket="bucket")
        assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 2
        assert caught.value.response["ResponseMetadata"]["MaxAttemptsReached"] is True
        assert len(server.asked) == 3


def test_a_transport_error_is_the_original_one_with_a_note():
    with serving(in_turn([RST])) as server, attached(server.url, quick()) as s3:
        with pytest.raises(ConnectionClosedError) as caught:
            s3.get_object(Bucket="bucket", Key="key")
        assert caught.value.__notes__[0].startswith("3 attempts in ")
        assert len(caught.value.__notes__) == 1


def test_a_refused_connection_was_not_sent_and_is_repeated_even_for_a_post():
    with serving(in_turn([FIN])) as server:
        port = server.port
    with hf.testing.clock():
        client = bare(f"http://127.0.0.1:{port}", "sqs")
        policy = quick()
        with listening() as events:
            hf.clients.botocore.attach(client, policy)
            with pytest.raises(EndpointConnectionError):
                client.send_message(QueueUrl=f"http://127.0.0.1:{port}/q", MessageBody="m")
        client.close()
    attempts = attempts_of(events)
    assert [(event.kind, event.sent) for event in attempts] == [("connect", "no")] * 3


@pytest.mark.parametrize("fault", [RST, FIN])
def test_a_post_that_may_have_run_is_not_repeated(fault):
    with serving(in_turn([fault])) as server, attached(server.url, quick(), "sqs") as sqs:
        with pytest.raises(ConnectionClosedError) as caught:
            sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")
        assert "must not be repeated" in caught.value.__notes__[0]
        assert len(server.asked) == 1


def test_a_post_that_was_throttled_did_not_run_and_is_repeated():
    script = in_turn([json_error(400, "RequestThrottled")], [answer(200, b'{"MessageId":"1"}')])
    with serving(script) as server, attached(server.url, quick(), "sqs") as sqs:
        assert sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")["MessageId"] == "1"


def test_a_post_with_a_token_of_the_service_is_repeated_with_the_same_token():
    script = in_turn([RST], [FIN], [answer(200, b"{}")])
    with serving(script) as server, attached(server.url, quick(), "dynamodb") as dynamodb:
        dynamodb.transact_write_items(
            TransactItems=[{"Delete": {"TableName": "t", "Key": {"k": {"S": "1"}}}}]
        )
    bodies = {asked.body for asked in server.asked}
    assert len(server.asked) == 3
    assert len(bodies) == 1
    assert b"ClientRequestToken" in bodies.pop()


def test_the_user_may_name_operations_that_can_be_repeated():
    script = in_turn([RST], [answer(200, b'{"MessageId":"1"}')])
    with serving(script) as server:
        with attached(server.url, quick(), "sqs", idempotent={"SendMessage"}) as sqs:
            sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")
        assert len(server.asked) == 2


def test_the_hint_of_aws_is_kept_to():
    script = in_turn([answer(503, b"", "x-amz-retry-after: 4000")], [answer(200, BODY)])
    with serving(script) as server, hf.testing.clock() as clock:
        policy = hf.policy(hf.Retry(3, backoff=hf.Constant(1.0, jitter="none")))
        with attached(server.url, policy) as s3:
            s3.get_object(Bucket="bucket", Key="key")
        assert clock.slept == pytest.approx([4.0])


def test_an_open_circuit_refuses_before_anything_is_sent():
    policy = quick(hf.Breaker(consecutive=2), attempts=1)
    with serving(in_turn([answer(500)])) as server, attached(server.url, policy) as s3:
        for _ in range(2):
            with pytest.raises(ClientError):
                s3.head_bucket(Bucket="bucket")
        with pytest.raises(hf.CircuitOpen) as caught:
            s3.head_bucket(Bucket="bucket")
        assert caught.value.retry_after > 0
        assert len(server.asked) == 2


def test_a_full_bulkhead_refuses_the_call():
    entered, leave = threading.Event(), threading.Event()

    def script(asked):
        entered.set()
        leave.wait(5)
        yield answer(200)

    with serving(script) as server, attached(server.url, quick(hf.Bulkhead(1))) as s3:
        first = threading.Thread(target=s3.head_bucket, kwargs={"Bucket": "bucket"})
        first.start()
        assert entered.wait(5)
        with pytest.raises(hf.BulkheadFull):
            s3.head_bucket(Bucket="bucket")
        leave.set()
        first.join(5)


def test_a_fallback_takes_the_place_of_the_answer():
    policy = quick(hf.Fallback({"Contents": []}, on=hf.TRANSIENT))
    with serving(in_turn([answer(500)])) as server, attached(server.url, policy) as s3:
        assert s3.list_objects_v2(Bucket="bucket") == {"Contents": []}
    with attached("http://127.0.0.1:1", policy) as s3:
        assert s3.list_objects_v2(Bucket="bucket") == {"Contents": []}


def test_with_an_empty_budget_a_long_poll_waits_once_and_gives_the_last_answer():
    retry = hf.Retry(9, long_poll=True, budget=hf.Budget(capacity=1))
    with serving(in_turn([answer(500)])) as server, hf.testing.clock() as clock:
        with attached(server.url, hf.policy(retry), "sqs") as sqs, pytest.raises(ClientError):
            sqs.receive_message(QueueUrl=f"{server.url}/q")
        assert len(server.asked) == 1
        assert len(clock.slept) == 1


def test_classify_sees_what_the_user_would_get():
    def judged(result):
        if isinstance(result, dict) and result.get("Contents") is None:
            return hf.TRANSIENT
        return None

    listing = b"<ListBucketResult><Contents><Key>k</Key></Contents></ListBucketResult>"
    script = in_turn([answer(200, b"<ListBucketResult/>")], [answer(200, listing)])
    with serving(script) as server, attached(server.url, quick(classify=judged)) as s3:
        assert s3.list_objects_v2(Bucket="bucket")["Contents"][0]["Key"] == "k"
        assert len(server.asked) == 2


def test_an_error_in_an_answer_of_200_is_a_failure():
    error = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"
    good = b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"
    script = in_turn([answer(200, error)], [answer(200, good)])
    with serving(script) as server, attached(server.url, quick()) as s3:
        s3.copy_object(Bucket="bucket", Key="key", CopySource="bucket/other")
        assert len(server.asked) == 2


def test_an_answer_of_dynamodb_must_have_its_checksum():
    good = b'{"Item":{"n":{"N":"1"}}}'
    field = f"x-amz-crc32: {zlib.crc32(good)}"
    script = in_turn([answer(200, good.replace(b"1", b"7"), field)], [answer(200, good, field)])
    with serving(script) as server, attached(server.url, quick(), "dynamodb") as dynamodb:
        found = dynamodb.get_item(TableName="t", Key={"k": {"S": "1"}})
        assert found["Item"]["n"]["N"] == "1"
        assert len(server.asked) == 2
    script = in_turn([answer(200, good, "x-amz-crc32: 5")])
    with serving(script) as server, attached(server.url, quick(), "dynamodb") as dynamodb:
        with pytest.raises(ChecksumError):
            dynamodb.update_item(TableName="t", Key={"k": {"S": "1"}})
        assert len(server.asked) == 1  # it was executed, and more than once might be too often


# -- time ------------------------------------------------------------------------------------


def test_a_deadline_ends_a_call_that_hangs():
    with serving(in_turn([HOLE])) as server, attached(server.url, quick(hf.Deadline(0.5))) as s3:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")
        assert time.monotonic() - began < 0.55
        assert server.quiet()


@pytest.mark.parametrize("operation", ["get_object", "head_object", "get_object_tagging"])
def test_a_deadline_ends_a_call_whose_head_drips(operation):
    head = answer(200, b"", "X-Long: " + "y" * 100)

    def script(asked):
        for at in range(len(head)):
            yield head[at : at + 1]
            yield 0.3

    with serving(script) as server, attached(server.url, quick(hf.Deadline(1))) as s3:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            getattr(s3, operation)(Bucket="bucket", Key="key")
        assert 0.95 < time.monotonic() - began < 1.05


def test_a_deadline_around_the_call_counts_as_well():
    with serving(in_turn([HOLE])) as server, attached(server.url, quick()) as s3:
        began = time.monotonic()
        with hf.deadline(0.3), pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")
        assert time.monotonic() - began < 0.35


def test_a_deadline_counts_what_was_done_before_the_call_was_admitted():
    def slow(**_):
        time.sleep(0.4)

    with serving(in_turn([HOLE])) as server, attached(server.url, quick(hf.Deadline(0.6))) as s3:
        s3.meta.events.register("before-sign.s3", slow)
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")
        assert 0.55 < time.monotonic() - began < 0.65


def test_a_call_that_was_not_admitted_before_its_deadline_is_not_sent():
    def slow(**_):
        time.sleep(0.3)

    policy = quick(hf.Deadline(0.2))
    with serving(in_turn([answer(200, BODY)])) as server, attached(server.url, policy) as s3:
        s3.meta.events.register("before-sign.s3", slow)
        with pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")
        assert server.asked == []


def test_a_call_made_while_another_is_signed_needs_no_permit_beside_its():
    policy = quick(hf.Bulkhead(1, queue=0))
    script = in_turn([answer(200, BODY)])
    with (
        serving(script) as server,
        attached(server.url, policy) as s3,
        attached(server.url, policy) as other,
    ):

        def first(**_):
            other.head_object(Bucket="bucket", Key="credentials")

        s3.meta.events.register("before-sign.s3", first)
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
    assert policy.state()["active"] == 0


def test_a_timeout_ends_one_attempt_and_the_next_may_succeed():
    script = in_turn([HOLE], [answer(200, BODY)])
    with serving(script) as server, attached(server.url, quick(hf.Timeout(0.2))) as s3:
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_the_tighter_read_timeout_counts_be_it_of_the_client():
    config = {"read_timeout": 0.2}
    with serving(in_turn([HOLE], [answer(200, BODY)])) as server:
        with attached(server.url, quick(hf.Timeout(5)), config=config) as s3:
            began = time.monotonic()
            s3.get_object(Bucket="bucket", Key="key")
        assert time.monotonic() - began < 1


# -- connections ----------------------------------------------------------------------------


def test_a_connection_that_went_stale_is_replaced_without_being_counted():
    def script(asked):
        yield answer(200)
        yield FIN  # right behind the answer: the client finds it in its pool

    with serving(script) as server, attached(server.url, quick()) as s3, listening() as events:
        for _ in range(200):
            s3.head_bucket(Bucket="bucket")
    attempts = attempts_of(events)
    assert [event.kind for event in attempts] == ["ok"] * 200


def test_a_kept_connection_that_breaks_unanswered_is_used_once_more_afresh():
    def script(asked):
        yield RST if asked.turn == 2 else answer(200, BODY)

    with serving(script) as server, attached(server.url, quick(attempts=1)) as s3:
        with listening() as events:
            for _ in range(4):
                assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
        assert server.connections == 4
    kinds = [event.kind for event in attempts_of(events)]
    assert kinds == ["ok"] * 4


def test_a_post_on_a_stale_connection_is_sent_again_only_if_told_to():
    def script(asked):
        yield RST if asked.turn == 2 else answer(200, b'{"MessageId":"1"}')

    with serving(script) as server:
        with attached(server.url, quick(), "sqs") as sqs:
            sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")
            with pytest.raises(ConnectionClosedError):
                sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")
        with attached(server.url, quick(), "sqs", replay_reused="any") as sqs:
            for _ in range(2):
                sqs.send_message(QueueUrl=f"{server.url}/q", MessageBody="m")


# -- S3's redirects ---------------------------------------------------------------------------


def test_a_region_redirect_is_followed_and_takes_permits_of_its_own():
    def script(asked):
        if asked.no == 1:
            yield s3_error(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1")
        else:
            yield answer(200, BODY)

    policy = quick(hf.Bulkhead(1))
    with serving(script) as server, attached(server.url, policy) as s3:
        with listening() as events:
            assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
        assert "eu-west-1" in server.asked[1].headers["authorization"]
        assert len(server.asked) == 2
    calls = [event.call_id for event in attempts_of(events)]
    assert len(calls) == len(set(calls)) == 2


def test_asking_for_the_region_does_not_wait_for_the_calls_own_permit():
    def script(asked):
        if asked.no == 1:
            yield s3_error(400, "PermanentRedirect")  # says nothing about the region
        elif asked.method == "HEAD":
            yield answer(200, b"", "x-amz-bucket-region: eu-west-1")
        else:
            yield answer(200, BODY)

    with serving(script) as server, attached(server.url, quick(hf.Bulkhead(1))) as s3:
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
        assert [asked.method for asked in server.asked] == ["GET", "HEAD", "GET"]


def test_a_redirect_shares_the_deadline_of_the_call():
    def script(asked):
        if asked.no == 1:
            yield 0.3
            yield s3_error(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1")
        else:
            yield HOLE

    with serving(script) as server, attached(server.url, quick(hf.Deadline(0.6))) as s3:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            s3.get_object(Bucket="bucket", Key="key")
        assert time.monotonic() - began < 0.65


# -- threads and neighbours ----------------------------------------------------------------------


def test_a_client_is_shared_by_threads():
    contents = {f"/bucket/{n}": bytes([n]) * 50_000 for n in range(40)}

    def script(asked):
        if asked.no % 5 == 0:
            yield RST
        elif asked.no % 7 == 0:
            yield answer(503)
        else:
            yield object_answer(asked, contents[asked.target.partition("?")[0]])

    policy = quick(hf.Bulkhead(4, queue=100), attempts=8)
    found = {}
    with serving(script) as server, attached(server.url, policy) as s3:

        def fetch(n):
            found[n] = s3.get_object(Bucket="bucket", Key=str(n))["Body"].read()

        threads = [threading.Thread(target=fetch, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == {n: bytes([n]) * 50_000 for n in range(40)}


def test_a_call_inside_another_retrying_policy_makes_one_attempt():
    with serving(in_turn([answer(500)])) as server, attached(server.url, quick()) as s3:
        outer = quick(attempts=2)
        with pytest.raises(ClientError):
            outer.call(s3.head_bucket, Bucket="bucket")
        assert len(server.asked) == 2


def test_a_stubbed_client_is_not_in_the_way():
    with attached("http://127.0.0.1:9", quick()) as s3, Stubber(s3) as stub:
        stub.add_response("list_buckets", {"Buckets": []})
        assert s3.list_buckets()["Buckets"] == []


def test_the_client_of_a_resource_can_be_attached():
    with serving(
        in_turn(
            [answer(503)],
            [
                object_answer,
            ][:0]
            or [answer(200, BODY)],
        )
    ) as server:
        resource = boto3.session.Session().resource(
            "s3", endpoint_url=server.url, region_name="us-east-1",
            aws_access_key_id="a", aws_secret_access_key="b",
        )  # fmt: skip
        hf.clients.botocore.attach(resource.meta.client, quick())
        assert resource.Object("bucket", "key").get()["Body"].read() == BODY
        assert len(server.asked) == 2
        resource.meta.client.close()


@pytest.mark.parametrize("event", ["request-created", "before-send", "before-parse", "needs-retry"])
def test_an_interrupted_call_leaves_nothing(event):
    def interrupted(**_):
        raise KeyboardInterrupt

    policy = quick()
    with serving(in_turn([answer(200, BODY)])) as server, attached(server.url, policy) as s3:
        s3.meta.events.register(f"{event}.s3", interrupted, unique_id="interrupted")
        with pytest.raises(KeyboardInterrupt):
            s3.get_object(Bucket="bucket", Key="key")
        assert policy.state()["active"] == 0
        s3.meta.events.unregister(f"{event}.s3", unique_id="interrupted")
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


@pytest.mark.parametrize("buffer", [0, 1 << 20])
def test_a_handler_of_the_user_may_ask_for_another_answer(buffer):
    policy = quick()
    with serving(in_turn([answer(200, BODY)])) as server:
        with attached(server.url, policy, buffer=buffer) as s3:
            s3.meta.events.register_first(
                "needs-retry.s3", lambda attempts, **_: 0 if attempts < 3 else None
            )
            assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
        assert len(server.asked) == 3


def test_an_answer_that_cannot_be_parsed_leaves_nothing():
    policy = quick()
    with serving(in_turn([answer(200, b"<html><br></html>")])) as server:
        with attached(server.url, policy, "sts") as sts, pytest.raises(ResponseParserError):
            sts.get_caller_identity()
        assert len(server.asked) == 1


def test_without_an_attempt_nothing_is_held():
    policy = quick()
    client = hf.clients.botocore.attach(bare("http://127.0.0.1:9"), policy)

    def broken(**_):
        raise RuntimeError("a handler of the user")

    for event in ("request-created.s3", "before-send.s3"):
        client.meta.events.register_first(event, broken, unique_id=event)
        with pytest.raises(RuntimeError, match="handler"):
            client.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(b"x"))
        assert policy.state()["active"] == 0
        client.meta.events.unregister(event, unique_id=event)
    client.close()


def test_without_botocore_one_line_says_what_to_install():
    code = "import sys; sys.modules['botocore'] = None; import holdfast as hf; hf.clients.botocore"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("hf.clients.botocore needs botocore: `pip install 'botocore>=1.36'`")


def test_importing_holdfast_imports_neither_botocore_nor_urllib3():
    code = "import sys, holdfast; print({'botocore', 'urllib3', 'boto3'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
