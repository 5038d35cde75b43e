"""`hf.testing.provider`: the official clients take it for what it plays."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import anthropic
import openai
import pytest

import holdfast as hf
from holdfast.testing.providers.__main__ import main

PROMPT = "What is a half-open connection?"
ASK = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": PROMPT}]}
CHAT = {"model": "gpt-test", "messages": [{"role": "user", "content": PROMPT}]}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "input_schema": CITY}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TEXT = hf.testing.reply(PROMPT)


@pytest.fixture
def llm():
    with hf.testing.provider(keys=["sk-1"]) as provider:
        yield provider


@pytest.fixture
def claude(llm):
    with anthropic.Anthropic(api_key="sk-1", base_url=llm.url(""), max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(llm):
    with openai.OpenAI(api_key="sk-1", base_url=llm.url("/v1"), max_retries=0) as client:
        yield client


def post(url, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_an_answer_is_that_of_its_prompt_with_its_tokens(claude):
    message = claude.messages.create(**ASK)
    assert message.content[0].text == TEXT
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 20)
    assert message.usage.input_tokens == 6


def test_a_stream_is_the_same_in_pieces(claude):
    with claude.messages.stream(**ASK) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) == 20
    assert "".join(pieces) == final.content[0].text == TEXT
    assert final.usage.output_tokens == 20


def test_max_tokens_ends_an_answer(claude):
    message = claude.messages.create(**ASK | {"max_tokens": 3})
    assert (message.content[0].text, message.stop_reason) == ("You asked: What", "max_tokens")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_that_is_offered_is_called_once(claude, streamed):
    with claude.messages.stream(**ASK, tools=[TOOL]) as stream:
        message = stream.get_final_message() if streamed else None
    message = message or claude.messages.create(**ASK, tools=[TOOL])
    call = message.content[0]
    assert (message.stop_reason, call.name, call.input) == (
        "tool_use",
        "weather",
        {"city": "Paris"},
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    after = claude.messages.create(**ASK | {"messages": turns}, tools=[TOOL])
    assert after.content[0].text == hf.testing.reply("So?")


def test_tokens_are_counted_and_models_listed(claude, gpt):
    counted = claude.messages.count_tokens(model="claude-test", messages=ASK["messages"])
    assert counted.input_tokens == 6
    assert [one.id for one in claude.models.list()] == ["claude-test", "gpt-test"]
    assert [one.id for one in gpt.models.list()] == ["claude-test", "gpt-test"]
    assert gpt.models.retrieve("gpt-test").owned_by == "holdfast"
    assert claude.models.retrieve("claude-test").display_name == "claude-test"


def test_a_chat_completion_is_whole_and_in_pieces(gpt):
    whole = gpt.chat.completions.create(**CHAT)
    assert whole.choices[0].message.content == TEXT
    assert whole.usage.total_tokens == 26
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(gpt.chat.completions.create(**CHAT, **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage.completion_tokens == 20
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_a_function_is_called_by_a_chat(gpt):
    whole = gpt.chat.completions.create(**CHAT, tools=[FUNCTION])
    with gpt.chat.completions.stream(**CHAT, tools=[FUNCTION]) as stream:
        pieces = stream.get_final_completion()
    for completion in (whole, pieces):
        function = completion.choices[0].message.tool_calls[0].function
        assert (function.name, json.loads(function.arguments)) == ("weather", {"city": "Paris"})
        assert completion.choices[0].finish_reason == "tool_calls"


def test_a_response_is_whole_and_in_pieces(gpt):
    assert gpt.responses.create(model="gpt-test", input=PROMPT).output_text == TEXT
    with gpt.responses.stream(model="gpt-test", input=PROMPT) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.output_text.delta") == 20
    assert (final.output_text, final.status) == (TEXT, "completed")
    cut = gpt.responses.create(model="gpt-test", input=PROMPT, max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_function_is_called_by_a_response(gpt):
    tool = {"type": "function", "name": "weather", "parameters": CITY, "strict": False}
    with gpt.responses.stream(model="gpt-test", input=PROMPT, tools=[tool]) as stream:
        call = stream.get_final_response().output[0]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})


def test_embeddings_are_the_same_for_the_same_text(gpt):
    one, two, again = gpt.embeddings.create(model="gpt-test", input=["a", "b", "a"]).data
    assert one.embedding == again.embedding != two.embedding
    plain = gpt.embeddings.create(model="gpt-test", input="a", encoding_format="float")
    assert plain.data[0].embedding == one.embedding


@pytest.mark.parametrize(
    ("change", "error", "kind"),
    [
        ({"model": "nope"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": "Hi"}, anthropic.BadRequestError, "invalid_request_error"),
    ],
)
def test_what_is_wrong_is_refused_in_the_words_of_anthropic(claude, change, error, kind):
    with pytest.raises(error) as caught:
        claude.messages.create(**ASK | change)
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id == caught.value.body["request_id"] == "req_00000001"


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"messages": "Hi"}, openai.BadRequestError, None),
    ],
)
def test_what_is_wrong_is_refused_in_the_words_of_openai(gpt, change, error, code):
    with pytest.raises(error) as caught:
        gpt.chat.completions.create(**CHAT | change)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id == "req_00000001"


def test_keys_are_checked_wherever_they_stand(llm):
    url = llm.url("/v1/messages")
    for headers in ({"x-api-key": "sk-1"}, {"Authorization": "Bearer sk-1"}, {"api-key": "sk-1"}):
        assert post(url, ASK, **headers)[0] == 200
    assert post(url, ASK)[0] == 401
    status, _, body = post(url, ASK, **{"x-api-key": "sk-2"})
    assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
    status, _, body = post(llm.url("/v1/chat/completions"), CHAT, Authorization="Bearer x")
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
    assert [asked.key for asked in llm.asked] == ["sk-1"] * 3


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/messages", b"{", 400),
        ("/v1/messages", b"[]", 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/responses", b'{"model":"gpt-test"}', 400),
        ("/v1/embeddings", b'{"model":"gpt-test","input":[]}', 400),
        ("/v1/models/nope", None, 404),
        ("/v1/messages", None, 405),
    ],
)
def test_what_cannot_be_asked_is_refused_and_not_executed(llm, path, body, status):
    request = urllib.request.Request(llm.url(path), body, {"x-api-key": "sk-1"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as error:
        assert error.code == status
        assert "message" in json.loads(error.read())["error"]
    assert llm.asked == []


def test_what_was_executed_is_remembered(llm, claude):
    claude.messages.create(**ASK)
    with claude.messages.stream(**ASK) as stream:
        stream.get_final_message()
    one, two = llm.asked
    assert (one.path, one.is_stream, two.is_stream) == ("/v1/messages", False, True)
    assert one.body["messages"] == ASK["messages"]
    assert "anthropic-version" in one.headers


def test_without_count_tokens_there_is_none():
    with hf.testing.provider(counts=False) as llm:
        assert post(llm.url("/v1/messages/count_tokens"), {"messages": []})[0] == 404


def test_an_answer_of_your_own(gpt):
    with hf.testing.provider(reply=str.upper) as llm:
        body = json.loads(post(llm.url("/v1/chat/completions"), CHAT)[2])
        assert body["choices"][0]["message"]["content"] == PROMPT.upper()


def test_first_byte_and_tokens_take_their_time():
    with hf.testing.provider(first_seconds=0.05, token_seconds=0.01, tokens=10) as llm:
        began = time.monotonic()
        post(llm.url("/v1/messages"), ASK)
        assert time.monotonic() - began >= 0.05
        began = time.monotonic()
        post(llm.url("/v1/messages"), ASK | {"stream": True})
        assert time.monotonic() - began >= 0.05 + 15 * 0.01  # 10 tokens, 6 other events


# -- what goes wrong -----------------------------------------------------------------------


def test_errors_come_in_the_words_of_each_api_and_execute_nothing():
    faults = [
        hf.testing.ApiError(429, retry_after=7, first=2),
        hf.testing.ApiError(skip=2, first=1, should_retry="false"),
        hf.testing.ApiError(400, skip=3, first=1, error_kind="billing_error", code="quota"),
    ]
    with hf.testing.provider(*faults) as llm:
        status, fields, body = post(llm.url("/v1/messages"), ASK)
        assert (status, fields["Retry-After"]) == (429, "7")
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        assert json.loads(body)["request_id"] == fields["request-id"]
        status, fields, body = post(llm.url("/v1/chat/completions"), CHAT)
        assert (status, json.loads(body)["error"]["code"]) == (429, "rate_limit_exceeded")
        status, fields, body = post(llm.url("/v1/messages"), ASK)
        assert (status, fields["x-should-retry"]) == (529, "false")
        assert json.loads(body)["error"]["type"] == "overloaded_error"
        status, _, body = post(llm.url("/v1/responses"), {})
        assert json.loads(body)["error"]["type"] == "billing_error"
        assert json.loads(body)["error"]["code"] == "quota"
        assert llm.asked == []
        assert llm.stats.faults == {"http 429": 2, "http 529": 1, "http 400": 1}
        assert post(llm.url("/v1/messages"), ASK)[0] == 200


def test_a_stream_may_end_in_an_error_event():
    with hf.testing.provider(hf.testing.ErrorEvent(after_events=5)) as llm:
        with anthropic.Anthropic(api_key="k", base_url=llm.url(""), max_retries=0) as client:
            said = []
            with (
                pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
                client.messages.stream(**ASK) as stream,
            ):
                said.extend(stream.text_stream)
            assert said == ["You", " asked:"]  # after message_start, content_block_start, ping
            assert client.messages.create(**ASK).content[0].text == TEXT  # no stream, no event
        with (
            openai.OpenAI(api_key="k", base_url=llm.url("/v1"), max_retries=0) as client,
            pytest.raises(openai.APIError, match="Overloaded"),
        ):
            list(client.chat.completions.create(**CHAT, stream=True))
    with pytest.raises(ValueError, match="after_events"):
        hf.testing.ErrorEvent(after_events=-1)
    with pytest.raises(ValueError, match="status"):
        hf.testing.ApiError(200)


@pytest.mark.parametrize("fault", [hf.chaos.Reset, hf.chaos.Fin])
def test_faults_of_the_network_strike_before_and_in_an_answer(fault):
    with (
        hf.testing.provider(fault(part="head", first=1), fault(after_bytes=900, skip=1)) as llm,
        anthropic.Anthropic(api_key="k", base_url=llm.url(""), max_retries=0) as client,
    ):
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.create(**ASK)
        assert len(llm.asked) == 1  # executed; only its answer was lost
        said = []
        with pytest.raises(Exception) as caught, client.messages.stream(**ASK) as stream:  # noqa: PT011 - which one depends on the client's HTTP library
            said.extend(stream.text_stream)
        assert "Remote" in type(caught.value).__name__ or "Read" in type(caught.value).__name__
        assert 0 < len(said) < 20


def test_it_serves_in_a_loop_as_well():
    async def main():
        async with hf.testing.provider() as llm:
            async with openai.AsyncOpenAI(api_key="k", base_url=llm.url("/v1")) as client:
                found = await asyncio.gather(
                    *(client.chat.completions.create(**CHAT) for _ in range(5))
                )
            assert {one.choices[0].message.content for one in found} == {TEXT}
            assert len(llm.asked) == 5

    asyncio.run(main())


def test_the_same_seed_hits_the_same_requests():
    def hits(seed):
        with hf.testing.provider(hf.testing.ApiError(share=0.3), seed=seed) as llm:
            return [post(llm.url("/v1/messages"), ASK)[0] for _ in range(30)]

    assert hits(1) == hits(1) != hits(2)
    assert set(hits(1)) == {200, 529}


def test_no_word_of_a_reply_comes_twice():
    words = hf.testing.reply(PROMPT, 200).split()
    assert len(words) == len(set(words)) == 200
    assert hf.testing.reply("Other") != hf.testing.reply(PROMPT)
    assert hf.testing.reply(PROMPT, 1) == "You"


def test_as_a_program_it_names_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            main([str(port)])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: port {port}: Address already in use\n"


def test_as_a_program_it_serves_until_it_is_interrupted():
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = "from holdfast.testing.providers.__main__ import main; main(['0', '0', '--key', 'k'])"
    command = [sys.executable, "-W", "error", "-c", f"{heed}; {start}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            lines = [child.stdout.readline() for _ in range(2)]
            urls = [line.split()[-1] for line in lines]
            assert [line.partition(":")[0] for line in lines] == ["provider 1", "provider 2"]
            for url in urls:
                assert post(f"{url}/v1/messages", ASK, **{"x-api-key": "k"})[0] == 200
            assert post(f"{urls[0]}/v1/messages", ASK)[0] == 401
        finally:
            child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
