"""A `Cancel` and those below it: who ends whom."""

from __future__ import annotations

import socket

from holdfast.wire.cancel import Cancel


def test_a_child_is_set_with_its_parent_but_not_the_other_way() -> None:
    parent = Cancel()
    with parent.child() as one, parent.child() as other:
        one.set()
        assert one.is_set()
        assert not parent.is_set()
        assert not other.is_set()
        parent.set()
        assert other.is_set()


def test_a_child_of_one_that_is_set_is_set_at_once() -> None:
    parent = Cancel()
    parent.set()
    with parent.child() as child:
        assert child.is_set()


def test_a_child_that_was_given_up_stays_as_it_is() -> None:
    parent = Cancel()
    with parent.child() as child:
        pass
    parent.set()
    assert not child.is_set()


def test_one_may_have_two_parents() -> None:
    first, second = Cancel(), Cancel()
    with first.child() as child:
        second.adopt(child)
        second.set()
        assert child.is_set()
        second.disown(child)


def test_the_sockets_of_children_are_woken_too() -> None:
    parent = Cancel()
    ours, theirs = socket.socketpair()
    with ours, theirs, parent.child() as child, child.watching(ours):
        parent.set()
        assert ours.recv(1) == b""
