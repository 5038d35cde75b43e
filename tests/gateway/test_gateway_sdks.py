"""The official clients of Anthropic and OpenAI through the gateway, before flaky providers."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, contextmanager

import anthropic
import openai
import pytest

import holdfast as hf

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "input_schema": CITY}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
RESET = hf.chaos.Reset(part="head", share=0.3)
OVERLOADED = hf.testing.ApiError(529, share=0.2)
DOWN = hf.testing.ApiError(503, share=0.3)
FLAKY = [(RESET,), (OVERLOADED, hf.testing.ErrorEvent(share=0.2)), (DOWN,)]


def claude_asks(prompt, **more):
    turns = [{"role": "user", "content": prompt}]
    return {"model": "claude-test", "max_tokens": 99, "messages": turns, **more}


def gpt_asks(prompt, **more):
    return {"model": "gpt-test", "messages": [{"role": "user", "content": prompt}], **more}


@contextmanager
def before(*faults, endpoint=None, provider=None, **settings):
    """Give (gateway, providers): one provider for each tuple of faults."""
    with ExitStack() as stack:
        llms = [
            stack.enter_context(hf.testing.provider(*each, seed=n, **(provider or {})))
            for n, each in enumerate(faults)
        ]
        ends = [
            hf.Endpoint(llm.url(""), id=f"llm-{n}", **(endpoint or {}))
            for n, llm in enumerate(llms)
        ]
        gateway = hf.Gateway(endpoints=ends, listen="127.0.0.1:0", **settings)
        yield stack.enter_context(gateway), llms


@contextmanager
def claude(gateway, **options):
    options = {"api_key": "k", "max_retries": 0, **options}
    with anthropic.Anthropic(base_url=gateway.url, **options) as client:
        yield client


@contextmanager
def gpt(gateway, **options):
    options = {"api_key": "k", "max_retries": 0, **options}
    with openai.OpenAI(base_url=f"{gateway.url}/v1", **options) as client:
        yield client


# -- whole and right ---------------------------------------------------------------------------


def test_whole_answers_are_right_whatever_the_providers_do():
    with before(*FLAKY) as (gateway, llms), claude(gateway) as one, gpt(gateway) as two:
        for n in range(20):
            prompt = f"number {n}"
            message = one.messages.create(**claude_asks(prompt))
            assert message.content[0].text == hf.testing.reply(prompt)
            assert message.usage.output_tokens == 20
            chat = two.chat.completions.create(**gpt_asks(prompt))
            assert chat.choices[0].message.content == hf.testing.reply(prompt)
            response = two.responses.create(model="gpt-test", input=prompt)
            assert response.output_text == hf.testing.reply(prompt)
        assert all(sum(llm.stats.faults.values()) > 0 for llm in llms)


def test_streams_are_right_whatever_the_providers_do_before_them():
    with before(*FLAKY) as (gateway, llms), claude(gateway) as one, gpt(gateway) as two:
        for n in range(20):
            prompt = f"number {n}"
            with one.messages.stream(**claude_asks(prompt)) as stream:
                pieces = list(stream.text_stream)
                final = stream.get_final_message()
            assert len(pieces) == 20
            assert "".join(pieces) == final.content[0].text == hf.testing.reply(prompt)
            assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 20)
            chunks = list(two.chat.completions.create(**gpt_asks(prompt, stream=True)))
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert said == hf.testing.reply(prompt)
            assert chunks[-1].choices[0].finish_reason == "stop"
            with two.responses.stream(model="gpt-test", input=prompt) as stream:
                stream.until_done()
                assert stream.get_final_response().output_text == hf.testing.reply(prompt)
        assert all(sum(llm.stats.faults.values()) > 0 for llm in llms)


def test_asynchronous_clients_get_the_same_many_at_a_time():
    async def one(client, prompt):
        message = await client.messages.create(**claude_asks(prompt))
        return message.content[0].text

    async def streamed(client, prompt):
        async with client.messages.stream(**claude_asks(prompt)) as stream:
            return "".join([text async for text in stream.text_stream])

    async def chat(client, prompt):
        chunks = await client.chat.completions.create(**gpt_asks(prompt, stream=True))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def main(gateway):
        options = {"api_key": "k", "max_retries": 0}
        async with (
            anthropic.AsyncAnthropic(base_url=gateway.url, **options) as first,
            openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", **options) as second,
        ):
            asked = [(work, f"number {n}") for n in range(10) for work in (one, streamed, chat)]
            found = await asyncio.gather(
                *(work(second if work is chat else first, prompt) for work, prompt in asked)
            )
        assert found == [hf.testing.reply(prompt) for _, prompt in asked]

    with before(*FLAKY) as (gateway, _):
        asyncio.run(main(gateway))


@pytest.mark.parametrize("cut", [hf.chaos.Reset, hf.chaos.Fin])
def test_a_whole_answer_that_is_cut_is_asked_for_again(cut):
    with before((cut(after_bytes=100, first=3),), ()) as (gateway, _), claude(gateway) as client:
        for n in range(6):
            message = client.messages.create(**claude_asks(f"number {n}"))
            assert message.content[0].text == hf.testing.reply(f"number {n}")


def test_tools_are_called_through_it():
    with before(*FLAKY) as (gateway, _), claude(gateway) as one, gpt(gateway) as two:
        with one.messages.stream(**claude_asks("Rain?", tools=[TOOL])) as stream:
            call = stream.get_final_message().content[0]
        assert (call.name, call.input) == ("weather", {"city": "Paris"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        turns = [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        ]
        after = one.messages.create(**claude_asks("", tools=[TOOL]) | {"messages": turns})
        assert after.content[0].text == hf.testing.reply("So?")
        with two.chat.completions.stream(**gpt_asks("Rain?", tools=[FUNCTION])) as stream:
            choice = stream.get_final_completion().choices[0]
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_models_embeddings_and_counts_go_through():
    with before(()) as (gateway, _), claude(gateway) as one, gpt(gateway) as two:
        assert [model.id for model in one.models.list()] == ["claude-test", "gpt-test"]
        assert [model.id for model in two.models.list()] == ["claude-test", "gpt-test"]
        assert len(two.embeddings.create(model="gpt-test", input="a").data[0].embedding) == 8
        turns = [{"role": "user", "content": "one two three"}]
        counted = one.messages.count_tokens(model="claude-test", messages=turns)
        assert counted.input_tokens == 4


# -- cut streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [hf.chaos.Reset, hf.chaos.Fin])
def test_a_stream_that_is_cut_raises_in_the_client_of_anthropic(cut):
    with before((cut(after_bytes=1200),)) as (gateway, _), claude(gateway) as client:
        said = []
        with (
            pytest.raises(anthropic.APIStatusError) as caught,
            client.messages.stream(**claude_asks("Hi")) as stream,
        ):
            said.extend(stream.text_stream)
        assert 0 < len(said) < 20
        assert hf.testing.reply("Hi").startswith("".join(said))
        assert caught.value.body["error"]["code"] == "HF-3108"


@pytest.mark.parametrize("cut", [hf.chaos.Reset, hf.chaos.Fin])
def test_a_stream_that_is_cut_raises_in_the_client_of_openai(cut):
    with before((cut(after_bytes=1500),)) as (gateway, _), gpt(gateway) as client:
        said = []
        with pytest.raises(openai.APIError) as caught:
            chunks = client.chat.completions.create(**gpt_asks("Hi", stream=True))
            said.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert 1 < len(said) < 20
        assert hf.testing.reply("Hi").startswith("".join(said))
        assert caught.value.code == "HF-3108"


@pytest.mark.parametrize("cut", [hf.chaos.Reset, hf.chaos.Fin])
def test_a_response_that_is_cut_raises_in_the_client_of_openai(cut):
    with before((cut(after_bytes=3000),)) as (gateway, _), gpt(gateway) as client:
        said = []
        with (
            pytest.raises(openai.APIError) as caught,
            client.responses.stream(model="gpt-test", input="Hi") as stream,
        ):
            said.extend(e.delta for e in stream if e.type == "response.output_text.delta")
        assert 0 < len(said) < 20
        assert caught.value.code == "HF-3108"


@pytest.mark.parametrize("cut", [hf.chaos.Reset, hf.chaos.Fin])
def test_a_cut_stream_raises_in_asynchronous_clients(cut):
    async def main(gateway):
        options = {"api_key": "k", "max_retries": 0}
        async with anthropic.AsyncAnthropic(base_url=gateway.url, **options) as client:
            with pytest.raises(anthropic.APIStatusError, match="HF-3108"):
                async with client.messages.stream(**claude_asks("Hi")) as stream:
                    await stream.get_final_message()
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", **options) as client:
            chunks = await client.chat.completions.create(**gpt_asks("Hi", stream=True))
            with pytest.raises(openai.APIError, match="cut"):
                async for _ in chunks:
                    pass

    with before((cut(after_bytes=1200),)) as (gateway, _):
        asyncio.run(main(gateway))


# -- errors --------------------------------------------------------------------------------------


def test_what_a_provider_refuses_arrives_as_it_said_it():
    with before((), ()) as (gateway, llms), claude(gateway) as one, gpt(gateway) as two:
        with pytest.raises(anthropic.NotFoundError) as caught:
            one.messages.create(**claude_asks("Hi") | {"model": "nope"})
        assert caught.value.body["error"] == {"type": "not_found_error", "message": "model: nope"}
        assert caught.value.request_id == caught.value.body["request_id"]
        with pytest.raises(openai.BadRequestError) as refused:
            two.chat.completions.create(model="gpt-test", messages="Hi")
        assert refused.value.param == "messages"
        assert refused.value.request_id.startswith("req_")
        assert sum(llm.stats.requests for llm in llms) == 2  # nobody else was asked


def test_the_last_refusal_of_all_arrives_as_it_was_said():
    faults = hf.testing.ApiError(529)
    with before((faults,), (faults,), max_wait=0.01) as (gateway, llms), claude(gateway) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(**claude_asks("Hi"))
        assert caught.value.status_code == 529
        assert caught.value.body["error"]["type"] == "overloaded_error"
        assert sum(llm.stats.requests for llm in llms) >= 2


def test_our_own_errors_are_read_by_both_clients():
    with before((hf.chaos.Reset(part="head"),)) as (gateway, _):
        with claude(gateway) as client, pytest.raises(anthropic.InternalServerError) as one:
            client.messages.create(**claude_asks("Hi"))
        with gpt(gateway) as client, pytest.raises(openai.InternalServerError) as two:
            client.chat.completions.create(**gpt_asks("Hi"))
    error = one.value.body["error"]
    assert (one.value.status_code, error["type"]) == (502, "api_error")
    assert error["code"] in {"HF-3101", "HF-3106"}
    assert one.value.request_id == one.value.body["request_id"]
    assert one.value.body["holdfast"]["attempts"][0]["endpoint"] == "llm-0"
    assert (two.value.type, two.value.code) == ("api_error", error["code"])
    assert two.value.request_id
    assert two.value.message.endswith(two.value.body["message"])


def test_a_wrong_token_is_an_authentication_error_in_both(monkeypatch):
    monkeypatch.setenv("HF_TEST_TOKEN", "sesame")
    monkeypatch.setenv("HF_TEST_KEY", "sk-real")
    settings = {"client_tokens": "env:HF_TEST_TOKEN", "endpoint": {"keys": "env:HF_TEST_KEY"}}
    with before((), provider={"keys": ["sk-real"]}, **settings) as (gateway, (llm,)):
        with claude(gateway) as client, pytest.raises(anthropic.AuthenticationError) as one:
            client.messages.create(**claude_asks("Hi"))
        with gpt(gateway) as client, pytest.raises(openai.AuthenticationError) as two:
            client.chat.completions.create(**gpt_asks("Hi"))
        assert one.value.body["error"]["code"] == two.value.code == "HF-3009"
        assert llm.stats.requests == 0
        with claude(gateway, api_key="sesame") as client:
            client.messages.create(**claude_asks("Hi"))
        with gpt(gateway, api_key="sesame") as client:
            client.chat.completions.create(**gpt_asks("Hi"))
        assert [asked.key for asked in llm.asked] == ["sk-real", "sk-real"]
        assert "sesame" not in json.dumps([asked.headers for asked in llm.asked])


def test_all_throttled_is_a_rate_limit_error_that_says_how_long():
    throttled = hf.testing.ApiError(429, retry_after=30)
    with before((throttled,), (throttled,), max_wait=1) as (gateway, _):
        with claude(gateway) as client, pytest.raises(anthropic.RateLimitError) as one:
            client.messages.create(**claude_asks("Hi"))
        with gpt(gateway) as client, pytest.raises(openai.RateLimitError) as two:
            client.chat.completions.create(**gpt_asks("Hi"))
    for error in (one.value, two.value):
        assert 25 <= int(error.response.headers["retry-after"]) <= 30


def test_who_comes_after_a_key_was_refused_is_told_of_it(monkeypatch):
    monkeypatch.setenv("HF_TEST_KEY", "sk-wrong")
    settings = {"endpoint": {"keys": "env:HF_TEST_KEY"}, "provider": {"keys": ["sk-right"]}}
    with before((), **settings) as (gateway, (llm,)), claude(gateway) as client:
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            client.messages.create(**claude_asks("Hi"))
        with pytest.raises(anthropic.RateLimitError, match="llm-0: http 401") as caught:
            client.messages.create(**claude_asks("Hi"))
        assert caught.value.body["holdfast"]["retry_after"] > 500
        assert llm.stats.requests == 1


def test_too_large_a_body_is_refused_with_its_status():
    with before((), body_max=1000) as (gateway, (llm,)), claude(gateway) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(**claude_asks("x" * 2000))
        assert (caught.value.status_code, llm.stats.requests) == (413, 0)
        assert caught.value.body["error"]["code"] == "HF-3004"


# -- who retries -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [hf.chaos.Reset(part="head"), hf.testing.ApiError(503)])
def test_clients_do_not_retry_what_the_gateway_has_retried(fault):
    with before((fault,), attempts=3) as (gateway, (llm,)):
        with claude(gateway, max_retries=2) as client, pytest.raises(anthropic.InternalServerError):
            client.messages.create(**claude_asks("Hi"))
        assert llm.stats.requests <= 3
        seen = llm.stats.requests
        with gpt(gateway, max_retries=2) as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**gpt_asks("Hi"))
        assert llm.stats.requests - seen <= 3


def test_a_client_with_its_own_retries_gets_one_answer():
    with before(*FLAKY) as (gateway, llms), claude(gateway, max_retries=2) as client:
        for n in range(20):
            raw = client.messages.with_raw_response.create(**claude_asks(f"number {n}"))
            assert raw.retries_taken == 0
            assert raw.parse().content[0].text == hf.testing.reply(f"number {n}")
        executed = sum(len(llm.asked) for llm in llms)
        resets = sum(llm.stats.faults["reset"] for llm in llms)
        assert executed == 20 + resets  # nothing ran twice but what was lost


def test_request_ids_of_provider_and_gateway_arrive():
    with before(()) as (gateway, _), claude(gateway) as one, gpt(gateway) as two:
        raw = one.messages.with_raw_response.create(**claude_asks("Hi"))
        assert raw.request_id == "req_00000001"
        assert raw.headers["x-holdfast-endpoint"] == "llm-0"
        assert raw.headers["x-holdfast-attempts"] == "1"
        assert raw.headers["x-holdfast-request"]
        chat = two.chat.completions.create(**gpt_asks("Hi"))
        assert chat._request_id == "req_00000002"
