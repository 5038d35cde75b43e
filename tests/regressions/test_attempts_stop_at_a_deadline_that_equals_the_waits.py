"""With a deadline of exactly the waits, rounding let one attempt more begin than planned.

It had 1e-16 seconds (found by simulation).
"""

from __future__ import annotations

import pytest

import holdfast as hf


@pytest.mark.parametrize("base", [0.1, 1.320160466358091, 7.7, 60.0])
def test_attempts_stop_at_a_deadline_that_equals_the_waits(base):
    backoff = hf.Exponential(base=base, cap=1e9, jitter="none")
    policy = hf.policy(hf.Deadline(3 * base, interrupt=False), hf.Retry(9, backoff=backoff))

    def fail():
        raise ConnectionResetError

    with hf.testing.clock() as clock:
        clock.advance(1234.5678)  # so that sums are rounded differently
        outcome = policy.outcome(fail)
    assert outcome.attempts == policy.plan().attempts_max == 2
