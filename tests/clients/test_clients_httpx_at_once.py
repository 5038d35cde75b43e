"""Requests of a policy that is warm: they are made without an exchange, until something happens.

A policy's first calls, and one in a while, go by the full path; all other tests see only that.
"""

from __future__ import annotations

import pytest
from httpx_faces import FACES, NOW, answer, answers, serving

import holdfast as hf

each = pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=repr)
BUSY = answer(b"busy", "503 Service Unavailable")


def warm(*parts) -> hf.Policy:
    """Return a policy whose next calls go by the fast path."""
    policy = hf.policy(
        hf.Deadline(10),
        hf.Bulkhead(2),
        hf.RateLimit(1_000_000),
        hf.Retry(3, backoff=NOW, budget=None),
        hf.Breaker(),
        *parts,
    )
    for _ in range(21):
        policy.outcome(int)
    return policy


class Seen:
    """What the library's transport was given; an inner transport of each library."""

    def __new__(cls, face):
        def handle_request(self, request):
            self.requests.append(request)
            self.left.append(hf.remaining())
            return face.inner.handle_request(self, request)

        made = type("Seen", (face.inner,), {"handle_request": handle_request})(verify=False)
        made.requests, made.left = [], []
        return made


@each
def test_a_request_goes_out_as_it_is_and_its_permit_comes_back(face):
    policy, inner = warm(), Seen(face)
    with serving(answers(*[answer(b"fine")] * 3)) as server, face.client(policy, inner) as c:
        for _ in range(3):
            request = face.lib.Request("GET", server.url, extensions={"timeout": {"read": 5.0}})
            assert c.client.send(request).content == b"fine"
            assert inner.requests[-1] is request
            assert policy.state()["active"] == 0
        assert server.connections == 1
    assert all(9 < left <= 10 for left in inner.left)


@each
def test_longer_timeouts_are_cut_to_what_an_attempt_has(face):
    policy, inner = warm(hf.Timeout(2)), Seen(face)
    with serving(answers(answer(b"fine"))) as server, face.client(policy, inner) as c:
        mine = {"connect": 1.0, "read": None, "write": 30.0, "pool": 2.0}
        request = face.lib.Request("GET", server.url, extensions={"timeout": mine})
        assert c.client.send(request).content == b"fine"
    sent = inner.requests[0].extensions["timeout"]
    assert sent == {"connect": 1.0, "read": 2.0, "write": 2.0, "pool": 2.0}
    assert request.extensions["timeout"] == mine


@each
def test_a_failure_is_one_attempt_of_those_that_the_policy_makes(face):
    policy = warm()
    with serving(answers(BUSY, BUSY, answer(b"fine"))) as server, face.client(policy) as c:
        response = c.get(server.url)
        assert (response.status_code, response.content) == (200, b"fine")
        assert len(server.requests) == 3
    assert policy.state()["active"] == 0


@each
def test_an_attempt_that_takes_too_long_is_followed_by_another(face):
    policy = warm(hf.Timeout(0.2))
    with (
        serving(answers("hole", answer(b"fine"))) as server,
        face.client(policy) as c,
    ):
        assert c.get(server.url).content == b"fine"
    assert policy.state()["active"] == 0


@each
def test_a_refused_connection_is_raised_with_a_note(face):
    policy = warm()
    with face.client(policy) as c:
        with pytest.raises(face.lib.ConnectError) as caught:
            c.get("http://127.0.0.1:1/")
        assert "3" in "".join(caught.value.__notes__)
    assert policy.state()["active"] == 0


@each
def test_limits_that_an_answer_mentions_are_heeded(face):
    policy = warm()
    names = ("limit: 100", "remaining: 0", "reset: 60")
    plain = answer(b"fine")
    last = answer(b"fine", "200 OK", *(f"x-ratelimit-{name}" for name in names))
    with serving(answers(plain, last)) as server, face.client(policy) as c:
        assert c.get(server.url).content == b"fine"
        assert c.get(server.url).content == b"fine"
        with pytest.raises((hf.Rejected, hf.DeadlineExceeded)):
            c.get(server.url)
        assert len(server.requests) == 2


@each
def test_an_open_body_keeps_its_permit_until_it_was_read(face):
    policy = warm()
    with (
        serving(answers(answer(b"x" * 5000))) as server,
        face.client(policy, buffer=100) as c,
        c.client.stream("GET", server.url) as response,
    ):
        assert policy.state()["active"] == 1
        assert response.read() == b"x" * 5000
        assert policy.state()["active"] == 0


@each
def test_a_stale_connection_is_replaced_without_counting_an_attempt(face):
    policy = hf.policy(hf.Deadline(10), hf.Breaker())
    for _ in range(21):
        policy.outcome(int)
    with (
        serving(answers(answer(b"fine"), "rst", answer(b"again"))) as server,
        face.client(policy) as c,
    ):
        assert c.get(server.url).content == b"fine"
        assert c.get(server.url).content == b"again"
        assert (server.connections, len(server.requests)) == (2, 3)
