"""The official `openai` client, unchanged, against the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import openai
import pytest

from model import LanguageModel
from tests.serving.conftest import Served

QUESTION = [{"role": "user", "content": "fix the vlan option"}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_it_lists_and_retrieves_models(client: openai.OpenAI, served: Served) -> None:
    served.open_rollout()
    assert [card.id for card in client.models.list()] == ["evermoe", "evermoe:1", "evermoe:2"]
    assert client.models.retrieve("evermoe:2").owned_by == "evermoe"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("evermoe:9")


def test_it_chats(client: openai.OpenAI, served: Served, tiny_model: LanguageModel) -> None:
    answer = client.chat.completions.create(model="evermoe", messages=QUESTION, max_tokens=8, user="ann")
    expected = "".join(tiny_model.generate("user: fix the vlan option\nassistant:", max_new_tokens=8))
    assert answer.choices[0].message.content == expected
    assert (answer.object, answer.model, answer.choices[0].message.role) == (
        "chat.completion",
        "evermoe:1",
        "assistant",
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    row = served.events.request(answer.id)
    assert (row.kind, row.unit, row.unit_given, row.arm, row.output) == ("chat", "ann", True, "champion", expected)


def test_it_streams_a_chat(client: openai.OpenAI, served: Served, tiny_model: LanguageModel) -> None:
    def pieces(seed: int) -> list[str]:
        prompt = "user: fix the vlan option\nassistant:"
        return list(tiny_model.generate(prompt, max_new_tokens=12, temperature=1.5, seed=seed))

    dice = {"temperature": 1.5, "seed": next(seed for seed in range(100) if len(pieces(seed)) > 3)}
    whole = client.chat.completions.create(model="evermoe", messages=QUESTION, max_tokens=12, **dice)
    chunks = list(
        client.chat.completions.create(
            model="evermoe",
            messages=QUESTION,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            **dice,
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([text for text in texts if text]) > 1
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert ends == [None] * (len(ends) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert served.events.request(chunks[0].id).output == whole.choices[0].message.content


def test_it_completes_and_streams_a_completion(client: openai.OpenAI, tiny_model: LanguageModel) -> None:
    whole = client.completions.create(model="evermoe", prompt="fix the", max_tokens=8)
    chunks = list(client.completions.create(model="evermoe", prompt="fix the", max_tokens=8, stream=True))
    assert whole.object == "text_completion"
    assert whole.choices[0].text == "".join(tiny_model.generate("fix the", max_new_tokens=8))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    free = client.completions.create(model="evermoe", prompt="fix the", max_tokens=12).choices[0].text
    stop = free[len(free) // 2 :][:3]
    stopped = client.completions.create(model="evermoe", prompt="fix the", max_tokens=12, stop=[stop])
    assert stopped.choices[0].text == free[: free.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_pinned_version_answers_outside_the_rollout(client: openai.OpenAI, served: Served) -> None:
    served.open_rollout()
    answer = client.completions.create(model="evermoe:2", prompt="fix the", max_tokens=2, user="ann")
    row = served.events.request(answer.id)
    assert (answer.model, row.version, row.arm, row.rollout) == ("evermoe:2", "2", "pinned", None)


def test_errors_arrive_as_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served here"):
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="'messages' is empty") as refused:
        client.chat.completions.create(model="evermoe", messages=[])
    assert (refused.value.code, refused.value.type) == ("invalid_request", "invalid_request_error")


def test_a_request_without_a_user_is_its_own_unit(client: openai.OpenAI, served: Served) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    answer = client.completions.create(model="evermoe", prompt="fix the", max_tokens=2)
    row = served.events.request(answer.id)
    assert (row.unit, row.unit_given) == (answer.id, False)
    assert before < row.at < datetime.now(UTC)
