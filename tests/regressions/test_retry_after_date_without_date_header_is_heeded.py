"""A Retry-After date was ignored when the answer had no Date header: the wall clock serves."""

from __future__ import annotations

import email.utils
import urllib.error
from email.message import Message

import pytest

import holdfast as hf


def test_retry_after_date_without_date_header_is_heeded():
    with hf.testing.clock() as clock:
        clock.random(0.0)
        headers = Message()
        headers["Retry-After"] = email.utils.formatdate(clock.wall() + 30, usegmt=True)

        def throttled():
            raise urllib.error.HTTPError("http://127.0.0.1/", 429, "slow down", headers, None)

        hf.policy(hf.Retry(2)).outcome(throttled)
        assert clock.slept == pytest.approx([30], abs=1)
