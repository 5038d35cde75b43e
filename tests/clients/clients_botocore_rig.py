"""Clients of botocore for the scripted server, and answers as S3 and DynamoDB give them."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

import holdfast as hf
from scripted import Asked, answer

if TYPE_CHECKING:
    from collections.abc import Iterator


def s3_error(status: int, code: str, *fields: str) -> bytes:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return answer(status, text.encode(), *fields)


def json_error(status: int, code: str, *fields: str) -> bytes:
    return answer(status, b'{"__type":"%s","message":"no"}' % code.encode(), *fields)


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def object_answer(asked: Asked, content: bytes, *fields: str) -> bytes:
    """Answer GET of an object as S3 does: If-Match, Range, ETag."""
    tag = etag(content)
    if asked.headers.get("if-match", tag) != tag:
        return s3_error(412, "PreconditionFailed")
    if asked.range is None:
        return answer(200, content, f"ETag: {tag}", *fields)
    first, last = asked.range
    last = len(content) - 1 if last is None else min(last, len(content) - 1)
    place = f"Content-Range: bytes {first}-{last}/{len(content)}"
    return answer(206, content[first : last + 1], f"ETag: {tag}", place, *fields)


@cache
def session() -> Any:
    """Return one session for all: it keeps the models that it has read."""
    return boto3.session.Session()


def bare(
    url: str, service: str = "s3", mode: str = "standard", *, verify: object = None, **config: Any
) -> Any:
    """Return a client of boto3 for `url`, without a policy."""
    s3 = {"addressing_style": "path"} if service == "s3" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # botocore's own
        return session().client(
            service,
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            verify=verify,
            config=Config(retries={"mode": mode}, s3=s3, **config),
        )


@contextmanager
def attached(
    url: str, policy: hf.Policy, service: str = "s3", *, mode: str = "standard", **options: Any
) -> Iterator[Any]:
    """Give a client with `policy`, and look afterwards whether anything was left."""
    config = options.pop("config", {})
    client = hf.clients.botocore.attach(bare(url, service, mode, **config), policy, **options)
    try:
        yield client
    finally:
        client.close()
        assert policy.state()["active"] == 0
