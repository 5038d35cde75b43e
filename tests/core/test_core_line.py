from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.core.line import TRANSITIONS, Input, Line, Phase


class Rig:
    """A line whose people note that they were woken."""

    def __init__(self, most: int = 1000):
        self.woken: list[int] = []
        self.line: Line[int] = Line(most, self.woken.append)

    def throttled(self, *people: int) -> None:
        for one in people:
            assert self.line.enter(one, cooling=True)

    def answered(self, *people: int) -> None:
        for one in people:
            self.line.answered(one)
            self.line.leave(one)


def test_every_pair_has_a_cell():
    assert set(TRANSITIONS) == set(itertools.product(Phase, Input))


def test_a_line_that_nobody_entered_stops_nobody():
    rig = Rig()
    assert rig.line.calm
    assert rig.line.admits(1)
    rig.line.leave(1)
    assert rig.line.calm


def test_after_a_cool_down_one_goes_and_each_answer_doubles():
    rig = Rig()
    rig.throttled(*range(100))
    assert rig.woken == []
    rig.line.cooled()
    assert rig.woken == [0]
    rig.answered(0)
    assert rig.woken == [0, 1, 2]
    rig.answered(1)
    assert (rig.line.width, len(rig.woken)) == (4, 6)  # 2, 3, 4 and 5 are under way
    rig.answered(2)
    assert (rig.line.width, len(rig.woken)) == (8, 11)
    assert rig.woken == list(range(11))


def test_when_the_last_has_its_answer_all_is_as_before():
    rig = Rig()
    rig.throttled(1, 2)
    rig.line.cooled()
    rig.answered(1)
    assert rig.line.phase is Phase.RAMP
    rig.answered(2)
    assert rig.line.phase is Phase.OPEN
    assert rig.line.calm


def test_who_comes_while_others_wait_goes_behind_them():
    rig = Rig()
    rig.throttled(1, 2)
    assert not rig.line.admits(3)
    rig.throttled(3)
    rig.line.cooled()
    assert not rig.line.admits(4)
    assert rig.line.enter(4, cooling=False)
    for one in (1, 2, 3, 4):
        rig.answered(one)
    assert rig.woken == [1, 2, 3, 4]


def test_who_comes_while_one_is_on_trial_waits_for_its_answer():
    rig = Rig()
    rig.throttled(1)
    rig.line.cooled()
    assert not rig.line.admits(2)
    assert rig.line.enter(2, cooling=False)
    rig.answered(1)
    assert rig.woken == [1, 2]


def test_after_a_cool_down_in_which_nobody_waited_the_next_is_the_trial():
    rig = Rig()
    rig.throttled(1)
    rig.line.leave(1)
    rig.line.cooled()
    assert rig.line.admits(2)
    assert not rig.line.admits(3)
    rig.answered(2)
    assert rig.line.calm
    assert rig.line.admits(3)


def test_a_trial_that_is_throttled_is_the_first_again_and_all_begins_anew():
    rig = Rig()
    rig.throttled(*range(1, 9))
    rig.line.cooled()
    rig.answered(1)
    assert rig.woken == [1, 2, 3]
    rig.throttled(2)
    assert rig.line.phase is Phase.HELD
    rig.answered(3)  # let go before the new cool-down: it says nothing of what comes after
    assert rig.woken == [1, 2, 3]
    rig.line.cooled()
    assert rig.woken == [1, 2, 3, 2]
    assert rig.line.width == 1


def test_a_trial_that_ends_without_an_answer_gives_its_place_to_the_next():
    rig = Rig()
    rig.throttled(1, 2, 3)
    rig.line.cooled()
    rig.line.leave(1)
    assert rig.woken == [1, 2]
    assert rig.line.width == 1


def test_who_leaves_the_line_is_not_woken():
    rig = Rig()
    rig.throttled(1, 2, 3)
    rig.line.leave(1)
    assert rig.woken == []
    rig.line.cooled()
    assert rig.woken == [2]
    assert 1 not in rig.line


def test_a_full_line_takes_nobody_but_those_who_come_back():
    rig = Rig(most=2)
    rig.throttled(1, 2)
    assert not rig.line.enter(3, cooling=True)
    rig.line.cooled()
    rig.throttled(3)
    rig.throttled(1)
    assert len(rig.line) == 3
    rig.line.cooled()
    assert rig.woken == [1, 1]


def test_a_place_that_comes_free_is_for_the_first_in_line():
    rig = Rig()
    for one in (1, 2, 3):
        assert rig.line.enter(one, cooling=False)
    assert not rig.line.admits(9)
    rig.line.leave(0)  # somebody who never waited has ended
    assert rig.woken == [1, 2, 3]


def test_room_that_is_made_by_one_who_goes_on_is_for_the_first_in_line():
    rig = Rig()
    rig.line.freed()
    assert rig.line.calm
    assert rig.line.enter(1, cooling=False)
    rig.line.freed()
    assert rig.woken == [1]


def test_room_counts_for_nothing_while_all_cool_down():
    rig = Rig()
    rig.throttled(1, 2, 3)
    rig.line.freed()
    assert rig.woken == []
    rig.line.cooled()
    rig.line.freed()
    assert rig.woken == [1]


def test_letting_go_stops_at_the_one_that_finds_nobody():
    woken: list[int] = []

    def wake(one: int) -> None:
        woken.append(one)
        if one == 2:
            line.enter(one, cooling=False)

    line: Line[int] = Line(10, wake)
    for one in (1, 2, 3):
        line.enter(one, cooling=False)
    line.leave(0)
    assert woken == [1, 2]
    line.leave(1)
    assert woken == [1, 2, 2]


def test_a_thousand_that_give_up_as_they_are_woken_need_no_stack():
    line: Line[int] = Line(5000, lambda one: line.leave(one))  # noqa: PLW0108 - its own name is not bound yet
    for one in range(5000):
        line.enter(one, cooling=False)
    line.leave(-1)
    assert line.calm


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens: FIFO, the width is kept, and nobody is lost."""

    def __init__(self):
        super().__init__()
        self.line: Line[int] = Line(20, self.wake)
        self.waiting: list[int] = []
        self.under_way: set[int] = set()
        self.numbers = itertools.count()

    def wake(self, one: int) -> None:
        assert self.line.phase is not Phase.HELD
        assert self.waiting.pop(0) == one
        self.under_way.add(one)

    @rule(cooling=st.booleans())
    def come(self, cooling):
        one = next(self.numbers)
        if self.line.admits(one):
            self.under_way.add(one)
        elif self.line.enter(one, cooling=cooling):
            self.waiting.append(one)
        else:
            assert len(self.waiting) >= 20

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), cooling=st.booleans())
    def come_back(self, which, cooling):
        one = sorted(self.under_way)[which % len(self.under_way)]
        known = one in self.line._gone
        if self.line.enter(one, cooling=cooling):
            self.under_way.discard(one)
            self.waiting.insert(0 if known else len(self.waiting), one)
        else:
            assert not known
            assert len(self.waiting) >= 20

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), well=st.booleans())
    def end(self, which, well):
        one = sorted(self.under_way)[which % len(self.under_way)]
        self.under_way.discard(one)
        if well:
            self.line.answered(one)
        self.line.leave(one)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 99))
    def give_up(self, which):
        one = self.waiting.pop(which % len(self.waiting))
        self.line.leave(one)

    @rule()
    def cool(self):
        self.line.cooled()

    @rule()
    def move(self):
        self.line.freed()

    @invariant()
    def all_is_known(self):
        assert list(self.line._waiting) == self.waiting
        assert self.line._out == sum(self.line._gone.values())
        assert self.line.phase is not Phase.RAMP or self.line._out <= self.line.width
        if self.line.calm:
            assert not self.waiting
            assert self.line.phase is Phase.OPEN


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("waiting", [1, 7, 1000])
def test_all_who_wait_go_in_the_end(waiting):
    rig = Rig()
    rig.throttled(*range(waiting))
    rig.line.cooled()
    at = 0
    while at < len(rig.woken):
        rig.answered(rig.woken[at])
        at += 1
    assert rig.woken == list(range(waiting))
    assert rig.line.calm
