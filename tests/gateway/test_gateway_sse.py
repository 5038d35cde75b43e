from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.gateway.sse import MAX_EVENT, Cutter, Meaning, Watch, event, meaning_of


def sse(*values: object, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"{head}data: {text}\n\n" for text in texts).encode()


# -- cutting ---------------------------------------------------------------------------------


def test_whole_events_pass_untouched():
    data = sse("a", "b")
    assert Cutter().feed(data) == data


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_kept_back_until_its_empty_line(end):
    whole = b"id: 1" + end + b"data: x" + end + end
    for cut in range(len(whole)):
        cutter = Cutter()
        first = cutter.feed(whole[:cut])
        second = cutter.feed(whole[cut:])
        third = cutter.feed(b": next" + end)
        assert first == b""
        assert first + second + third == whole
        assert cutter.held == b": next" + end


def test_a_huge_event_passes_raw_and_the_next_is_whole_again():
    cutter = Cutter()
    huge = b"data: " + b"x" * (MAX_EVENT + 1)
    assert cutter.feed(huge) == huge
    assert not cutter.at_boundary
    assert cutter.feed(b"yy") == b"yy"
    assert cutter.feed(b"z\n\ndata: n") == b"z\n\n"
    assert cutter.at_boundary
    assert cutter.feed(b"ext\n\n") == b"data: next\n\n"


LINES = st.sampled_from([b"data: x", b"event: y", b": c", b"id", b"\n", b"\r\n", b"\r", b"\n\n"])


@given(pieces=st.lists(LINES, max_size=20), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_no_byte_is_lost_added_or_moved(pieces, cuts):
    data = b"".join(pieces)
    cutter, given_out, at = Cutter(), b"", 0
    for cut in [*sorted(cut for cut in cuts if cut <= len(data)), len(data)]:
        given_out += cutter.feed(data[at:cut])
        at = cut
        assert data.startswith(given_out)
    assert given_out + cutter.held == data


# -- meaning ---------------------------------------------------------------------------------

START = {"type": "message_start", "message": {"id": "m", "content": [], "stop_reason": None}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (START, "preamble"),
        ({"type": "ping"}, "preamble"),
        (BLOCK, "preamble"),
        ({**DELTA, "delta": {"type": "text_delta", "text": ""}}, "preamble"),
        ({**BLOCK, "content_block": {"type": "tool_use", "name": "f", "input": {}}}, "content"),
        (DELTA, "content"),
        ({**DELTA, "delta": {"type": "thinking_delta", "thinking": "Hm"}}, "content"),
        ({**DELTA, "delta": {"type": "new_delta"}}, "content"),
        ({"type": "unheard_of"}, "content"),
        (STOP, "content"),
        ({"type": "message_stop"}, "end"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "error"),
        ([1], "content"),
        ("not json", "content"),
    ],
)
def test_events_of_anthropic(value, meaning):
    assert meaning_of(sse(value).strip(), "anthropic") is Meaning(meaning)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ({"choices": [{"delta": {"role": "assistant"}}]}, "preamble"),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, "preamble"),
        ({"choices": [{"delta": {"content": "Hi"}}]}, "content"),
        ({"choices": [{"delta": {"tool_calls": [{"id": "t"}]}}]}, "content"),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, "content"),
        ({"choices": [{"delta": {}}, {"delta": {"content": "x"}}]}, "content"),
        ({"choices": [], "usage": {}}, "content"),
        ({"choices": [{"text": "Hi"}]}, "content"),
        ({"type": "response.created"}, "preamble"),
        ({"type": "response.output_text.delta", "delta": "Hi"}, "content"),
        ({"error": {"message": "no", "code": "rate_limit"}}, "error"),
        ("[DONE]", "end"),
    ],
)
def test_events_of_openai(value, meaning):
    assert meaning_of(sse(value).strip(), "openai") is Meaning(meaning)


def test_a_named_error_and_a_comment():
    assert meaning_of(sse({"message": "x"}, name="error"), "openai") is Meaning.ERROR
    assert meaning_of(b": ping", "anthropic") is Meaning.PREAMBLE


def test_the_beginning_is_read_until_it_tells_something():
    data = sse(START, {"type": "ping"}, BLOCK)
    for step in (1, 7, len(data)):
        watch = Watch("anthropic")
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert [watch.begin(piece) for piece in pieces] == [None] * len(pieces)
        assert watch.begin(sse(DELTA)) is Meaning.CONTENT


def test_an_error_may_come_after_the_preamble():
    watch = Watch("anthropic")
    assert watch.begin(sse(START)) is None
    assert watch.begin(sse({"type": "error", "error": {}})) is Meaning.ERROR


def test_an_event_that_is_nested_too_deeply_is_content():
    deep = b"data: " + b'{"a":' * 60_000 + b"1" + b"}" * 60_000
    assert meaning_of(deep, "openai") is Meaning.CONTENT


def test_of_an_unknown_api_everything_is_content_and_any_end_is_one():
    watch = Watch("generic")
    assert watch.begin(b"x") is Meaning.CONTENT
    assert watch.ended


def test_a_beginning_without_end_is_content():
    watch = Watch("openai")
    assert watch.begin(b"data: " + b"x" * (MAX_EVENT + 1)) is Meaning.CONTENT


@pytest.mark.parametrize(
    ("profile", "last"),
    [
        ("anthropic", sse(STOP)),
        ("anthropic", sse({"type": "message_stop"}, name="message_stop")),
        ("openai", sse({"choices": [{"delta": {}, "finish_reason": "length"}]})),
        ("openai", sse("[DONE]")),
    ],
)
def test_the_end_of_a_stream_is_seen_however_it_is_cut(profile, last):
    for cut in range(len(last)):
        watch = Watch(profile)
        watch.passed(sse(DELTA, {"choices": [{"delta": {}, "finish_reason": None}]}))
        assert not watch.ended
        watch.passed(last[:cut])
        watch.passed(last[cut:])
        assert watch.ended, cut


def test_a_null_reason_is_no_end():
    watch = Watch("anthropic")
    watch.passed(sse(START))
    assert not watch.ended


def test_an_event_of_ours_is_one_event():
    made = event("error", {"type": "error", "error": {"message": "a\nb"}})
    assert made.count(b"\n\n") == 1
    assert meaning_of(made.strip(), "anthropic") is Meaning.ERROR
