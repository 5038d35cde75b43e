"""The states of a request: the table is whole, and nothing passes it by."""

from __future__ import annotations

import itertools

import pytest

from holdfast.gateway.states import TRANSITIONS, Input, State

BEFORE_THE_ANSWER = {State.CONNECTING, State.SENDING, State.SENT, State.ANSWERING}


@pytest.mark.parametrize(("state", "what"), list(itertools.product(State, Input)))
def test_each_cell_is_as_the_protocol_wants_it(state, what):
    then = TRANSITIONS.get((state, what))
    if state is State.OVER:
        assert then is None
    elif what is Input.END:
        assert then is State.OVER
    elif what is Input.FAIL:
        assert then is (State.CHOOSING if state in BEFORE_THE_ANSWER else None)
    elif state is State.PASSING:
        assert then is None, "what was given to the client can only end"


def test_every_state_is_reached_and_every_input_is_used():
    assert set(TRANSITIONS.values()) | {State.CHOOSING} == set(State)
    assert {what for _, what in TRANSITIONS} == set(Input)


def test_from_every_state_a_request_can_end():
    for state in State:
        seen, left = set(), {state}
        while left:
            seen |= left
            left = {then for (at, _), then in TRANSITIONS.items() if at in left} - seen
        assert State.OVER in seen
