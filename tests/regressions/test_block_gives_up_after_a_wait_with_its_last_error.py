"""A block whose budget ran out while it waited failed with AssertionError (found by simulation)."""

from __future__ import annotations

import pytest

import holdfast as hf


def test_block_gives_up_after_a_wait_with_its_last_error():
    retry = hf.Retry(3, budget=hf.Budget(capacity=0), long_poll=True)
    with hf.testing.clock(), pytest.raises(ConnectionResetError, match="the last"):
        for attempt in hf.policy(retry).attempts():
            with attempt:
                raise ConnectionResetError("the last")
