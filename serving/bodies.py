"""What clients may send: the bodies of every POST, how they are read, and how one is refused in one line.

Knows JSON and the field's names (OpenAI's, where there is one). Does not know models, storage or rollouts.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs

from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evermoe.errors import BadInput
from evermoe.words import as_name
from monitoring.rows import MAX_NAME_LENGTH

LARGEST_BODY = 1_000_000
"""Bytes. A longer body is refused while it is being read, so it never lies in memory whole."""
MOST_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 64
SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1
"""What a random generator of torch can be seeded with."""
HALVES = re.compile("[\ud800-\udfff]")


class BodyTooLarge(BadInput):
    """The body is longer than `LARGEST_BODY`."""

    http_status = 413


def _storable(value: object) -> object:
    """Refuse what is no text: the NUL character, and halves of surrogate pairs (JSON can spell both)."""
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("holds a NUL character; remove it")
        if HALVES.search(value):
            raise ValueError("holds half of a surrogate pair, which is not valid Unicode; remove it")
    return value


def _stripped(value: object) -> object:
    return _storable(value.strip() if isinstance(value, str) else value)


def _as_name(value: object) -> object:
    return _storable(as_name(value) if isinstance(value, str) else value)


def _only(neutral: float | bool) -> AfterValidator:
    def check(value: float | bool) -> float | bool:
        if value != neutral:
            raise ValueError(f"is supported at {json.dumps(neutral)} only; leave it out")
        return value

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(_storable)]
FilledText = Annotated[str, Field(min_length=1), BeforeValidator(_storable)]
Stated = Annotated[str, Field(min_length=1, max_length=2000), BeforeValidator(_stripped)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), BeforeValidator(_storable)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), BeforeValidator(_as_name)]


class Body(BaseModel):
    """Values must have the right JSON type ("0.5" is no number); fields that change no answer of ours are let pass."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Part(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Body):
    include_usage: bool = False


class Generating(Body):
    """What chat and completion requests share. A field that would change the answer and that we do not honour is
    accepted only at the value that changes nothing, so no client believes it had an effect."""

    model: Name
    user: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    stop: Text | list[Text] | None = None
    seed: int | None = Field(None, ge=SMALLEST_SEED, le=LARGEST_SEED)
    n: Literal[1] | None = None
    top_p: Annotated[float, _only(1.0)] | None = None
    frequency_penalty: Annotated[float, _only(0.0)] | None = None
    presence_penalty: Annotated[float, _only(0.0)] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)

    def stops(self) -> tuple[str, ...]:
        """The stop strings, empty ones left out."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class ResponseFormat(Body):
    type: Literal["text"]


class ChatBody(Generating):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    logprobs: Annotated[bool, _only(False)] | None = None
    top_logprobs: Literal[0] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    functions: list[Any] | None = Field(None, max_length=0)
    function_call: Literal["none", "auto"] | None = None

    def prompt(self) -> str:
        """The conversation as plain text, one `role: content` a line, ending where the assistant would go on:

        system: You route notes.
        user: Who owns the lag module?
        assistant:
        """
        return "".join(f"{message.role}: {message.text()}\n" for message in self.messages) + "assistant:"

    def new_tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or DEFAULT_NEW_TOKENS


class CompletionBody(Generating):
    """POST /v1/completions"""

    prompt: FilledText | Annotated[list[FilledText], Field(min_length=1, max_length=1)]
    echo: Annotated[bool, _only(False)] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None

    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def new_tokens(self) -> int:
        return self.max_tokens or DEFAULT_NEW_TOKENS


class ClassifyBody(Body):
    """POST /v1/classify"""

    input: FilledText
    labels: list[Label] | None = Field(None, min_length=1, max_length=1000)
    model: Name = "evermoe"
    user: Text | None = None


class FeedbackBody(Body):
    """POST /v1/feedback: a score or the right label, for a response, once per key."""

    id: Name
    key: Name
    score: float | None = Field(None, ge=0.0, le=1.0)
    label: Label | None = None


class ControlBody(Body):
    """POST /v1/rollouts/{id}/{action}: who decides (where no API key says it), why, and the share where that is the action."""

    by: Stated | None = None
    reason: Stated
    share: float | None = Field(None, gt=0.0, lt=1.0)
    version: Name | None = None
    """Of several challengers, the one that is meant; aborting without it aborts all."""
    revision: int | None = None
    """The one that was looked at: where the rollout has changed since, nothing is done."""


class StartBody(Body):
    """POST /v1/rollouts: the version to put on trial, or several, who decides (where no API key says it), and why."""

    version: Name | None = None
    versions: list[Name] | None = Field(None, min_length=1, max_length=20)
    by: Stated | None = None
    reason: Stated

    def named(self) -> list[str]:
        """The versions, `version` in front of `versions`. Raises `BadInput` where there is none."""
        named = [*([self.version] if self.version else []), *(self.versions or [])]
        if not named:
            raise BadInput("'version' is missing; give the version to put on trial, or several as 'versions'")
        return list(dict.fromkeys(named))


BODIES = (ChatBody, CompletionBody, ClassifyBody, FeedbackBody, ControlBody, StartBody)
AnyBody = TypeVar("AnyBody", bound=Body)


async def read_bytes(request: Request) -> bytes:
    """The body, at most `LARGEST_BODY` long. Raises `BodyTooLarge` as soon as it is known to be longer."""
    refusal = BodyTooLarge(f"the body is longer than {LARGEST_BODY:,} bytes; send shorter text")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > LARGEST_BODY:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise refusal
    return bytes(body)


async def read(request: Request, kind: type[AnyBody]) -> AnyBody:
    """The body as `kind`. Raises `BadInput` with one line naming the first thing that is wrong."""
    body = await read_bytes(request)
    if not body.strip():
        raise BadInput("the body is empty; send a JSON object")
    try:
        given = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not valid UTF-8 (byte {error.start}); encode it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise BadInput("the body is not usable JSON: a number is too long or the nesting too deep") from None
    if not isinstance(given, dict):
        raise BadInput(f"the body must be a JSON object, not {_kind_of(given)}")
    return check(given, kind)


async def read_form(request: Request, several: str = "") -> dict[str, Any]:
    """The fields of a form, stripped, each once but for the one named `several`.

    Raises `BadInput` for what no form of ours sends.
    """
    try:
        given = parse_qs((await read_bytes(request)).decode("utf-8"), max_num_fields=40)
    except ValueError:
        raise BadInput("the form cannot be read; send it from the console") from None
    fields: dict[str, Any] = {name: values[0].strip() for name, values in given.items()}
    if several in given:
        fields[several] = [value.strip() for value in given[several]]
    return fields


def check(given: dict[str, Any], kind: type[AnyBody]) -> AnyBody:
    """`given` as `kind`. Raises `BadInput` with one line naming the first field that is wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise BadInput(_first_fault(error)) from None


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    # Of a union's branches, the one that got furthest is the one the client meant.
    same_field = (fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1])
    first = max(same_field, key=lambda fault: (len(fault["loc"]), not fault["type"].endswith("_type")))
    # pydantic names the branch it tried as one more step: "list[Part]", "constrained-str", "str".
    steps = [str(step) for step in first["loc"] if isinstance(step, int) or (step.isidentifier() and step != "str")]
    name, given, limits = ".".join(steps) or "body", _short(first["input"]), first.get("ctx", {})
    lines = {
        "missing": f"'{name}' is missing",
        "none_required": f"'{name}' is not supported; leave it out",
        "literal_error": f"'{name}': {given} is not supported; use {limits.get('expected')}",
        "value_error": f"'{name}' {limits.get('error')}",
        "too_short": f"'{name}' is empty",
        "string_too_short": f"'{name}' is empty",
        "string_too_long": f"'{name}' is longer than {limits.get('max_length')} characters",
        "too_long": f"'{name}' takes {limits.get('max_length')} at most",
        "string_type": f"'{name}' must be a string, not {given}",
        "bool_type": f"'{name}' must be true or false, not {given}",
        "list_type": f"'{name}' must be an array, not {given}",
        "dict_type": f"'{name}' must be an object, not {given}",
        "model_type": f"'{name}' must be an object, not {given}",
        "model_attributes_type": f"'{name}' must be an object, not {given}",
    }
    if first["type"] == "too_long" and limits.get("max_length") == 0:
        return lines["none_required"]
    return lines.get(first["type"], f"'{name}' {first['msg'].replace('Input should', 'must')}, not {given}")


def _short(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True, default=str)
    except (RecursionError, ValueError):  # read just so, but too deep to be written from here
        return "a deeply nested value"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind_of(value: object) -> str:
    kinds: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
