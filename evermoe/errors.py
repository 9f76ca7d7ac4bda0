"""The errors a user can meet. Each message is one line that says what is wrong and what to do about it.

Any room may raise these; the edges (the command line, the HTTP gateway, a flow) print the message and stop there.
"""

from __future__ import annotations

import re


def without_password(text: str) -> str:
    """`text` without the password of any address in it (`scheme://user:password@host`, well formed or not)."""
    return re.sub(r":(?!//)\S+@", "@", text)


class EvermoeError(Exception):
    """Base of the family. `exit_code` is what the command line returns, `http_status` what the gateway answers."""

    exit_code = 1
    http_status = 500


class BadInput(EvermoeError):
    """What the user gave cannot be used: a file, a row, a body, an option."""

    exit_code = 2
    http_status = 400


class Unauthenticated(EvermoeError):
    """Who asks is not known: no API key, or none that is in force."""

    exit_code = 2
    http_status = 401


class Forbidden(EvermoeError):
    """Who asks is known, and may not do this."""

    exit_code = 2
    http_status = 403


class NotFound(EvermoeError):
    """The thing named does not exist: a response id, a version, a rollout, a stream."""

    exit_code = 2
    http_status = 404


class Conflict(EvermoeError):
    """The thing exists, but its state forbids the action: promoting a closed rollout, say."""

    exit_code = 2
    http_status = 409


class Expired(EvermoeError):
    """The time for this is over: feedback after its window."""

    exit_code = 2
    http_status = 410


class TooManyRequests(EvermoeError):
    """More was asked than the limit allows; nothing was done. Try again after `retry_after_seconds`."""

    http_status = 429

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotReady(EvermoeError):
    """Something must be done first: an empty home has no champion to serve."""

    exit_code = 3
    http_status = 503


class StorageUnavailable(EvermoeError):
    """The event database or the disk refused a write; nothing was acknowledged. Try again after `retry_after_seconds`."""

    http_status = 503
    retry_after_seconds = 2


class ServiceUnreachable(EvermoeError):
    """A server we need (MLflow, Prefect) does not answer at the address we were given."""

    exit_code = 4
    http_status = 503


class PortInUse(EvermoeError):
    """Another process listens where we were told to listen."""

    exit_code = 4


class HomeTooNew(EvermoeError):
    """The home directory was written by a newer Evermoe; this one would misread it."""

    exit_code = 5
