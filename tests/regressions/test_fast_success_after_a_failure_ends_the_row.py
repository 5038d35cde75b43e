"""A success that began before a failure and ended after it was only tallied.

The row of failures went on, and the tally had no time to belong to (found by simulation).
"""

from __future__ import annotations

import holdfast as hf


def test_fast_success_after_a_failure_ends_the_row():
    policy = hf.policy(hf.Breaker(consecutive=3, min_calls=100))

    def fail():
        raise ConnectionResetError

    for _ in range(30):
        policy.call(int)
    for _ in range(5):
        policy.call(policy.outcome, fail)  # the failure happens during a fast call
    assert policy.state()["circuit"] == "closed"
    assert (policy.state()["calls"], policy.state()["failures"]) == (40, 5)
