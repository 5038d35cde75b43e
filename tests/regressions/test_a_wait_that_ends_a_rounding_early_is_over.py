"""A loop may wake a task one clock resolution early; then there is nothing left to wait for."""

from __future__ import annotations

import math

import holdfast as hf
from holdfast.core.call import Attempt, Wait
from holdfast.runtime.lock import deciding


def test_a_slot_that_is_one_float_ahead_is_there():
    # Virtual time does not move for a wait below the resolution, so asking again went on for ever.
    with hf.testing.clock() as clock, deciding:
        policy = hf.policy(hf.RateLimit(10, burst=1))
        policy.call(int)
        attempts = policy.attempts()
        call = attempts.call
        step = call.next(clock.now)
        assert isinstance(step, Wait)
        assert isinstance(call.next(math.nextafter(clock.now + step.seconds, 0.0)), Attempt)
        call.abandoned(clock.now)
