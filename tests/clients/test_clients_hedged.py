"""A hedged policy belongs to asynchronous clients: elsewhere it is refused at once."""

from __future__ import annotations

import boto3
import httpx
import pytest
import requests

import holdfast as hf

HEDGED = hf.policy(hf.Retry(2), hf.Hedge(), name="hedged")


def client():
    return boto3.client("s3", region_name="us-east-1")


@pytest.mark.parametrize(
    "use",
    [
        lambda: hf.clients.httpx.Transport(HEDGED, httpx.HTTPTransport()),
        lambda: hf.clients.requests.mount(requests.Session(), HEDGED),
        lambda: hf.clients.botocore.attach(client(), HEDGED),
    ],
    ids=["httpx", "requests", "botocore"],
)
def test_a_synchronous_client_refuses_it_when_it_is_given(use):
    with pytest.raises(TypeError, match="`hedged` has a Hedge, which is for asynchronous clients"):
        use()


def test_asynchronous_clients_take_it():
    hf.clients.httpx.AsyncTransport(HEDGED)
    hf.clients.aiohttp.Middleware(HEDGED)
