"""The states of an item: every cell of the table."""

from __future__ import annotations

import itertools

import pytest

from holdfast.downloads.states import TRANSITIONS, Input, State, after, is_open

CELLS = list(itertools.product(State, Input))


@pytest.mark.parametrize(("state", "happened"), CELLS)
def test_every_cell_leads_somewhere_or_is_a_defect(state: State, happened: Input) -> None:
    if (state, happened) in TRANSITIONS:
        assert after(state, happened) is TRANSITIONS[state, happened]
    else:
        with pytest.raises(ValueError, match=f"an item that is {state}"):
            after(state, happened)


def test_every_state_can_be_reached() -> None:
    reached, queue = {State.QUEUED}, [State.QUEUED]
    while queue:
        state = queue.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in reached:
                reached.add(target)
                queue.append(target)
    assert reached == set(State) - {State.PLANNED}  # only a plan that is not yet read is that


def test_only_a_verified_item_can_become_done() -> None:
    into_done = {cell for cell, target in TRANSITIONS.items() if target is State.DONE}
    assert into_done == {(State.FINISHING, Input.PUBLISHED), (State.DONE, Input.ADD)}
    into_finishing = {cell[0] for cell, target in TRANSITIONS.items() if target is State.FINISHING}
    assert into_finishing == {State.VERIFYING, State.FINISHING}


def test_a_new_run_takes_up_everything_that_is_open() -> None:
    for state in State:
        if is_open(state):
            assert after(state, Input.QUEUE) in {State.QUEUED, State.FINISHING}


def test_what_ended_without_its_file_can_be_asked_for_again() -> None:
    for state in (State.FAILED, State.CANCELLED, State.NEEDS_URL):
        assert after(state, Input.ADD) is State.QUEUED
