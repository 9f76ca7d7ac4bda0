"""Who asks, and whether they may: the door before every route but `/health`, `/ready` and the sign-in.

Knows API keys and roles, and how HTTP carries them: `Authorization: Bearer KEY` from programs, a session's cookie from the
console. Does not know what a route does; each says what it needs (`needs`). While no key was ever made, everyone is let in,
which `evermoe serve` allows on loopback alone; from the first key on, keys are required for good.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fastapi import Depends, Request

from evermoe.errors import Forbidden, NotReady, StorageUnavailable, TooManyRequests, Unauthenticated
from monitoring.keys import ApiKey, Keys, Role, holder, sha256
from serving.limits import Limits

log = logging.getLogger("evermoe.serving")
COOKIE = "evermoe_session"
LATELY_SECONDS = 900.0
"""A session that was seen within these is known without the database."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

Ability = Literal["ask", "read", "steer"]
ABILITIES: Mapping[Role, frozenset[Ability]] = {
    "client": frozenset({"ask"}),
    "reviewer": frozenset({"read"}),
    "operator": frozenset({"read", "steer"}),
}
"""Whoever judges versions does not vote on them: an operator who also asks has a client's key for that."""


class WrongOrigin(Forbidden):
    """A page of another site tried to use the gateway through the user's browser."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the holder of `key`, or anyone on this machine where no key was ever made."""

    key: ApiKey | None

    @property
    def id(self) -> str:
        """The key's id as rows keep it."""
        return self.key.id if self.key else ""

    @property
    def signature(self) -> str | None:
        """How the audit names the caller: nobody but the holder of a key can sign like this. None without a key."""
        return f"{self.key.name} (key {self.key.id})" if self.key else None

    def may(self, *abilities: Ability) -> bool:
        """Whether the caller has one of these abilities."""
        return self.key is None or not ABILITIES[self.key.role].isdisjoint(abilities)


def needs(*abilities: Ability) -> Any:
    """The dependency of a route that a caller with one of `abilities` may use; leaves the caller in `request.state.caller`."""

    async def admit(request: Request) -> None:
        access: Access = request.app.state.access
        request.state.caller = await access.admit(request, *abilities)

    return Depends(admit)


class Access:
    """Knows the keys by reading them again and again, so that a key made or revoked anywhere is so here within a second.

    Where the database cannot be read, the keys known last stay in force, and `problem` says so.
    """

    def __init__(
        self,
        keys: Keys,
        clock: Callable[[], datetime],
        limits: Limits | None = None,
        *,
        every: float = 0.25,
        patience: float = 10.0,
    ) -> None:
        """Keys are read every `every` seconds, in a thread of its own; after `patience` seconds in vain there is a problem.

        `limits` hold for each key, and for each address that shows none; None: no limits.
        """
        self.keys, self._limits = keys, limits
        self.clock, self._every, self._patience = clock, every, patience
        self._known: Mapping[str, ApiKey] | None = None
        self._required = False
        self._fault: str | None = None
        self._heard = time.monotonic()
        self._sessions: dict[str, tuple[str, float]] = {}  # by their hash: the key, and when they were seen
        self._ended: dict[
            str, float
        ] = {}  # when, of those signed out lately: a request under way must not bring one back
        self._reader = ThreadPoolExecutor(1, "keys")

    @property
    def problem(self) -> str | None:
        """Why a key made or revoked of late may not be known here; None when all are."""
        silent = time.monotonic() - self._heard
        return None if silent < self._patience else f"the API keys could not be read for {silent:.0f} s"

    @property
    def required(self) -> bool:
        """Whether a key is needed. Raises `NotReady` before the keys were read for the first time."""
        if self._known is None:
            raise NotReady("the API keys could not be read yet; try again in a moment")
        return self._required

    async def refresh(self) -> None:
        """Read the keys once. Never raises what reading raises; `problem` tells."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._reader, self.keys.all)
        except Exception as error:
            fault = next(iter(str(error).splitlines()), type(error).__name__)
            if fault != self._fault:
                log.warning("the API keys cannot be read: %s", fault)
            self._fault = fault
            return
        self._fault = None
        self._known = {key.id: key for key in found}
        self._required = self._required or bool(found)  # never back: an emptied table must not open the door
        self._heard = time.monotonic()

    async def run(self) -> None:
        """Follow the keys until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every)

    def close(self) -> None:
        """Free the reading thread without waiting for a read that hangs."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def holder(self, text: str) -> ApiKey | None:
        """The key in force that `text` is, if it is one."""
        return holder(text, self._known or {})

    async def admit(self, request: Request, *abilities: Ability) -> Caller:
        """Who asks, if they have one of `abilities`. Raises `Forbidden`, and as `caller` does."""
        caller = await self.caller(request)
        if not caller.may(*abilities):
            assert caller.key is not None
            able = " or ".join(role for role, can in ABILITIES.items() if not can.isdisjoint(abilities))
            raise Forbidden(f"the key {caller.key.name} is of the role {caller.key.role}; this takes {able}")
        return caller

    async def caller(self, request: Request) -> Caller:
        """Who asks. Raises `Unauthenticated`, `WrongOrigin`, `TooManyRequests`, `NotReady`; for a session `StorageUnavailable`."""
        if not self.required:
            self.limit(request)
            refuse_other_names(request)
            refuse_other_sites(request)
            return Caller(None)
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":  # another scheme is between a browser and the proxy before us
            key = self.holder(text.strip())
            self.limit(request, key)
            if key is None:
                raise Unauthenticated("this API key is not known here, or was revoked; `evermoe keys list` shows them")
            return Caller(key)
        self.limit(request)
        token = request.cookies.get(COOKIE)
        if token is None:
            raise Unauthenticated("an API key is needed: send `Authorization: Bearer KEY` (`evermoe keys create`)")
        refuse_other_sites(request, silent=False)
        key = await self._key_of_session(token)
        if key is None:
            raise Unauthenticated("this session is over; sign in again")
        return Caller(key)

    async def _key_of_session(self, token: str) -> ApiKey | None:
        """The key whose session this is. While the database is gone, sessions seen lately go on for as long as their key is known:
        the console is where a person sees what is wrong. Raises `StorageUnavailable` for others."""
        seen, now = sha256(token), time.monotonic()
        try:
            key = await asyncio.to_thread(self.keys.key_of_session, token, self.clock())
        except StorageUnavailable:
            id, at = self._sessions.get(seen, ("", 0.0))
            key = (self._known or {}).get(id)
            if key is None or not key.in_force or now - at > LATELY_SECONDS:
                raise
            return key
        self._sessions = {one: held for one, held in self._sessions.items() if now - held[1] <= LATELY_SECONDS}
        self._sessions.pop(seen, None)
        if key is not None and seen not in self._ended:
            self._sessions[seen] = key.id, now
        return key

    async def sign_out(self, token: str) -> None:
        """End a session. Raises `StorageUnavailable`."""
        self._sessions.pop(sha256(token), None)
        self._ended = {one: at for one, at in self._ended.items() if time.monotonic() - at <= LATELY_SECONDS}
        self._ended[sha256(token)] = time.monotonic()
        await asyncio.to_thread(self.keys.close_session, token)

    def limit(self, request: Request, key: ApiKey | None = None) -> None:
        """Count a request against its key, or its address where it has none. Raises `TooManyRequests`."""
        if self._limits is None:
            return
        seconds = self._limits.wait(key.id if key else _address(request), time.monotonic())
        if seconds > 0:
            raise TooManyRequests(
                f"more than {self._limits.per_second:g} requests a second; come again in {math.ceil(seconds)} s",
                math.ceil(seconds),
            )


def _address(request: Request) -> str:
    """Where a request comes from; uvicorn believes what a proxy on this machine says of it, and no other."""
    return f"address {request.client.host if request.client else 'unknown'}"


def refuse_other_sites(request: Request, silent: bool = True) -> None:
    """Refuse what a page of another site sends through the user's browser. Raises `WrongOrigin`.

    Browsers say with every POST which site it comes from (OWASP, Cross-Site Request Forgery Prevention, "Verifying Origin").
    Programs do not: they are let in where `silent`, which is wrong for whoever a browser's cookie vouches for.
    """
    origin = request.headers.get("origin")
    if request.method in SAFE_METHODS or (origin is None and silent):
        return
    if origin is None or origin.partition("://")[2] != request.headers.get("host"):
        raise WrongOrigin(f"a page of {(origin or 'an unnamed site')[:100]} may not use this gateway; use its console")


def refuse_other_names(request: Request) -> None:
    """Refuse a request to an open gateway by a public name. Raises `WrongOrigin`.

    A page can point a name of its own at 127.0.0.1 and then passes for our own site (DNS rebinding); and a proxy that lends
    an open gateway a public name opens it to everyone.
    """
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] or host
    public = "." in name and not name.startswith("[") and not name.rpartition(".")[2].isdigit()
    if public and not name.endswith(".localhost"):
        raise WrongOrigin(
            "a gateway without API keys answers its own machine only; make one with `evermoe keys create`"
        )
