"""What clients may send, and the one line that refuses the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evermoe.errors import BadInput
from serving.bodies import Body, ChatBody, ClassifyBody, CompletionBody, ControlBody, FeedbackBody, check

CHAT: dict[str, Any] = {"model": "evermoe", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "evermoe", "prompt": "hi"}
NO_CALL = "'{}': {} is not supported; use 'none' or 'auto'"
FEEDBACK: dict[str, Any] = {"id": "clsf-1", "key": "k"}


def test_a_chat_becomes_plain_text_that_ends_where_the_assistant_goes_on() -> None:
    messages = [
        {"role": "system", "content": "You route notes."},
        {"role": "user", "content": [{"type": "text", "text": "Who owns "}, {"type": "text", "text": "lag?"}]},
    ]
    body = check(CHAT | {"messages": messages}, ChatBody)
    assert body.prompt() == "system: You route notes.\nuser: Who owns lag?\nassistant:"


def test_fields_at_the_value_that_changes_nothing_are_accepted() -> None:
    neutral = {
        "n": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "tools": [],
        "logprobs": False,
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "functions": [],
        "function_call": "none",
        "tool_choice": "auto",
        "seed": 2**64 - 1,
        "store": True,
    }
    assert check(CHAT | neutral, ChatBody).new_tokens() == 64
    assert check(TEXT | {"prompt": ["hi"], "best_of": 1, "echo": False}, CompletionBody).text() == "hi"


@pytest.mark.parametrize(
    ("given", "kind", "line"),
    [
        ({}, ChatBody, "'model' is missing"),
        (CHAT | {"messages": []}, ChatBody, "'messages' is empty"),
        (CHAT | {"messages": "x"}, ChatBody, "'messages' must be an array, not \"x\""),
        (
            CHAT | {"messages": [{"role": "user", "content": 5}]},
            ChatBody,
            "'messages.0.content' must be a string, not 5",
        ),
        (
            CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            ChatBody,
            "'messages.0.content.0.type': \"image_url\" is not supported; use 'text'",
        ),
        (CHAT | {"temperature": 3}, ChatBody, "'temperature' must be less than or equal to 2, not 3"),
        (CHAT | {"top_p": 0.4}, ChatBody, "'top_p' is supported at 1.0 only; leave it out"),
        (CHAT | {"n": 2}, ChatBody, "'n': 2 is not supported; use 1"),
        (CHAT | {"tools": [{}]}, ChatBody, "'tools' is not supported; leave it out"),
        (
            CHAT | {"response_format": {"type": "json_object"}},
            ChatBody,
            "'response_format.type': \"json_object\" is not supported; use 'text'",
        ),
        (CHAT | {"functions": [{"name": "f"}]}, ChatBody, "'functions' is not supported; leave it out"),
        (CHAT | {"function_call": {"name": "f"}}, ChatBody, NO_CALL.format("function_call", '{"name": "f"}')),
        (CHAT | {"tool_choice": "required"}, ChatBody, NO_CALL.format("tool_choice", '"required"')),
        (CHAT | {"top_logprobs": 5}, ChatBody, "'top_logprobs': 5 is not supported; use 0"),
        (
            CHAT | {"seed": 2**64},
            ChatBody,
            "'seed' must be less than or equal to 18446744073709551615, not 18446744073709551616",
        ),
        (
            TEXT | {"seed": -(2**63) - 1},
            CompletionBody,
            "'seed' must be greater than or equal to -9223372036854775808, not -9223372036854775809",
        ),
        (CHAT | {"stream": "yes"}, ChatBody, "'stream' must be true or false, not \"yes\""),
        (TEXT | {"prompt": ""}, CompletionBody, "'prompt' is empty"),
        (TEXT | {"prompt": ["a", "b"]}, CompletionBody, "'prompt' takes 1 at most"),
        (TEXT | {"logprobs": 3}, CompletionBody, "'logprobs' is not supported; leave it out"),
        ({"input": ""}, ClassifyBody, "'input' is empty"),
        ({"input": "a\x00b"}, ClassifyBody, "'input' holds a NUL character; remove it"),
        ({"input": "a", "labels": []}, ClassifyBody, "'labels' is empty"),
        ({"input": "a", "user": 3}, ClassifyBody, "'user' must be a string, not 3"),
        (FEEDBACK | {"score": math.nan}, FeedbackBody, "'score' must be a finite number, not NaN"),
        (FEEDBACK | {"score": 1.5}, FeedbackBody, "'score' must be less than or equal to 1, not 1.5"),
        (FEEDBACK | {"score": True}, FeedbackBody, "'score' must be a valid number, not true"),
        ({"id": "clsf-1", "score": 1}, FeedbackBody, "'key' is missing"),
        ({"by": "ann"}, ControlBody, "'reason' is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: dict[str, Any], kind: type[Body], line: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(given, kind)
    assert str(refused.value) == line


@pytest.mark.parametrize("depth", range(900, 1010, 3))
def test_a_value_that_is_nested_however_deeply_is_refused(depth: int) -> None:
    deep: object = 0
    for _ in range(depth):
        deep = [deep]
    with pytest.raises(BadInput):
        check({"input": deep}, ClassifyBody)
