"""What the gateway sends back, in OpenAI's shapes, and its errors.

Knows the wire format only: every function is pure. Does not know who answered, or how.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from evermoe.errors import EvermoeError

Kind = Literal["chat", "completion", "classify"]
PREFIXES: dict[Kind, str] = {"chat": "chatcmpl", "completion": "cmpl", "classify": "clsf"}
DONE = b"data: [DONE]\n\n"
CODES = {400: "invalid_request", 401: "invalid_api_key", 403: "forbidden", 404: "not_found"} | {
    405: "method_not_allowed",
    409: "conflict",
    410: "expired",
    413: "body_too_large",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "unavailable",
}


def new_id(kind: Kind) -> str:
    """A response id that no other response has and nobody guesses."""
    return f"{PREFIXES[kind]}-{_random.read(16).hex()}"


class _Random:
    """The system's random bytes, read many at a time: each reading lets go of the interpreter, and waits to have it back."""

    def __init__(self) -> None:
        self._bytes, self._at = b"", 0

    def read(self, count: int) -> bytes:
        if self._at + count > len(self._bytes):
            self._bytes, self._at = os.urandom(4096), 0
        self._at += count
        return self._bytes[self._at - count : self._at]


_random = _Random()  # used by the event loop alone


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    def shape(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True)
class TextAnswer:
    """The shapes of one chat or text completion: whole, or as the chunks of a stream."""

    kind: Literal["chat", "completion"]
    id: str
    model: str
    at: datetime

    def whole(self, text: str, finish: str, usage: Usage) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return self._head("chat.completion") | {"choices": [choice], "usage": usage.shape()}

    def first_chunk(self, with_usage: bool) -> list[bytes]:
        """Chat streams open with the role; text streams open with text."""
        if self.kind == "completion":
            return []
        return [self._chunk({"role": "assistant", "content": "", "refusal": None}, "", None, with_usage)]

    def chunk(self, text: str, with_usage: bool) -> bytes:
        return self._chunk({"content": text}, text, None, with_usage)

    def last_chunks(self, finish: str, usage: Usage | None) -> list[bytes]:
        """The chunk that says why it ended, the usage where it was asked for, and the end mark."""
        last = [self._chunk({}, "", finish, usage is not None)]
        if usage is not None:
            last.append(event(self._head("chat.completion.chunk") | {"choices": [], "usage": usage.shape()}))
        return [*last, DONE]

    def _chunk(self, delta: dict[str, Any], text: str, finish: str | None, with_usage: bool) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice |= {"delta": delta} if self.kind == "chat" else {"text": text}
        shape = self._head("chat.completion.chunk") | {"choices": [choice]}
        return event(shape | {"usage": None} if with_usage else shape)

    def _head(self, chat_object: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": chat_object if self.kind == "chat" else "text_completion",
            "created": int(self.at.timestamp()),
            "model": self.model,
        }


def event(shape: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(shape, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model_card(name: str, created: datetime) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created.timestamp()), "owned_by": "evermoe"}


def model_list(names: Iterable[str], created: datetime) -> dict[str, Any]:
    return {"object": "list", "data": [model_card(name, created) for name in names]}


def error_shape(message: str, status: int, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object: one line, the family of the error, a code a program can compare."""
    return {
        "error": {
            "message": " ".join(message.split()),
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "param": None,
            "code": code or CODES.get(status, "error"),
        }
    }


def error_headers(error: EvermoeError) -> dict[str, str]:
    """The header that tells a client when to come again, for errors that pass, or how to say who it is."""
    if error.http_status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if error.http_status not in (429, 503):
        return {}
    return {"Retry-After": str(getattr(error, "retry_after_seconds", 2))}
