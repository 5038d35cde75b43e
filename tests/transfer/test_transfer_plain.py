"""The plain good answer: never plain where the table of answers says anything else."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.transfer.answers import Action, Question, judge
from holdfast.transfer.plain import checked, is_plain
from holdfast.transfer.verify import Digest
from holdfast.wire.http1 import Framing, Head

FIELDS = {
    "content-type": ["text/html", "application/json", "text/html; charset=utf-8", "x/y", ""],
    "content-encoding": ["gzip", "identity", "br", ""],
    "content-range": ["bytes 0-9/10", "bytes 5-9/10", "bytes */10", "rubbish", ""],
    "location": ["/elsewhere"],
    "etag": ['"a"', 'W/"a"', "a", ""],
    "last-modified": ["Tue, 14 Nov 2023 22:13:20 GMT", "rubbish"],
    "x-linked-etag": ['"b"'],
}


@st.composite
def heads(draw):
    status = draw(st.sampled_from([200, 203, 204, 206, 301, 304, 400, 403, 404, 412, 416, 503]))
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
    headers = {name: draw(st.sampled_from(FIELDS[name])) for name in names}
    framing = draw(st.sampled_from(list(Framing)))
    length = draw(st.sampled_from([0, 5, 10])) if framing is Framing.LENGTH else None
    return Head(status, headers, framing, length)


@settings(max_examples=1500)
@given(heads(), st.sampled_from([None, 0, 5, 10]), st.booleans(), st.booleans())
def test_what_is_plain_is_written_from_zero_by_the_table(head, size, allow_html, data_suffix):
    question = Question(size=size, allow_html=allow_html, data_suffix=data_suffix)
    decision = judge(question, head)
    if is_plain(head, size):
        assert (decision.action, decision.row) == (Action.FROM_ZERO, "200, whole")


@pytest.mark.parametrize("length", [10, None])
def test_a_usual_answer_is_plain(length):
    framing = Framing.LENGTH if length is not None else Framing.CHUNKED
    assert is_plain(Head(200, {"etag": '"a"'}, framing, length), 10)
    assert is_plain(Head(200, {"content-type": "text/html"}, framing, length), None)


BODY = memoryview(b"0123456789")
SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
HEAD = Head(200, {}, Framing.LENGTH, 10)


def test_all_that_was_promised_is_checked():
    right, also = Digest("sha256", SHA), Digest("md5", MD5)
    whole = checked(BODY, HEAD, 10, [right, also])
    assert whole is not None
    assert (whole.size, whole.verified, whole.digest, whole.source) == (10, "sha256", SHA, "user")
    assert checked(BODY, HEAD, 10, [right, Digest("md5", "0" * 32)]) is None
    assert checked(BODY, HEAD, 10, [Digest("sha256", "0" * 64)]) is None
    assert checked(BODY, HEAD, 9, []) is None
    only = checked(BODY, HEAD, None, [])
    assert only is not None
    assert only.verified == "size-only"


def test_what_the_server_sent_along_is_checked():
    field = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    sent = Head(200, {"content-md5": field}, Framing.LENGTH, 10)
    whole = checked(BODY, sent, None, [])
    assert whole is not None
    assert (whole.verified, whole.source) == ("md5", "Content-MD5")
    wrong = Head(200, {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, Framing.LENGTH, 10)
    assert checked(BODY, wrong, None, []) is None
    # One that contradicts the user's fails before it is known which of them is right.
    assert checked(BODY, wrong, None, [Digest("md5", MD5)]) is None
