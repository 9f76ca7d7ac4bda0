"""API keys and the console's sessions: who may ask, read or steer, kept so that whoever reads the database can do none of it.

A key reads `evermoe_ID_SECRET`. The id is public; of the secret, 256 random bits, only the SHA-256 is kept, and the same goes
for the token of a session. A slow hash protects secrets that people choose; of random ones with 112 bits or more, NIST SP
800-63B (5.1.2.2, look-up secrets) asks for an approved one-way function and no more. Knows nothing of HTTP or of rollouts.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import Engine, delete, exc, func, select, update

from evermoe.errors import BadInput, Conflict, NotFound
from monitoring.database import storage_errors, writing
from monitoring.schema import api_keys, sessions

Role = Literal["client", "reviewer", "operator"]
"""`client` asks and gives feedback, `reviewer` reads everything, `operator` reads and moves rollouts."""
ROLES: tuple[Role, ...] = get_args(Role)

SECRET_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key: everything but its secret. A name is used once, so that the audit means one key by it."""

    id: str
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None
    secret_sha256: str = field(repr=False)

    @property
    def in_force(self) -> bool:
        """Whether it has not been revoked."""
        return self.revoked_at is None


@dataclass(frozen=True)
class NewKey:
    """A key at the one moment at which its text is known."""

    key: ApiKey
    text: str = field(repr=False)


class Keys:
    """The keys in the event log's database. Every method may block on it, and raises `StorageUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        """`engine` is one of `monitoring.schema.open_database`; whoever opened it closes it."""
        self._engine = engine

    def create(self, name: str, role: str, now: datetime) -> NewKey:
        """Make a key. Raises `BadInput` for a name or a role that is none, `Conflict` for a name that was used before."""
        if not NAME.fullmatch(name):
            raise BadInput(f"{name[:70]!r} is no name for a key; use 1 to 64 of a-z, A-Z, 0-9 and . _ @ -")
        given = next((one for one in ROLES if one == role), None)
        if given is None:
            raise BadInput(f"{role[:70]!r} is no role; use one of {', '.join(ROLES)}")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        key = ApiKey(secrets.token_hex(4), name, given, now, None, sha256(secret))
        values = {column.name: getattr(key, column.name) for column in api_keys.columns}
        with storage_errors(self._engine):
            try:
                with writing(self._engine) as connection:
                    connection.execute(api_keys.insert().values(**values))
            except exc.IntegrityError:
                raise Conflict(
                    f"a key called {name} was made before, and the audit knows it by that name; choose another"
                ) from None
        return NewKey(key, f"evermoe_{key.id}_{secret}")

    def all(self) -> tuple[ApiKey, ...]:
        """Every key ever made, the oldest first, those that were revoked too."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name)
        with storage_errors(self._engine), self._engine.connect() as connection:
            return tuple(ApiKey(**row) for row in connection.execute(query).mappings())

    def revoke(self, name: str, now: datetime) -> ApiKey:
        """Take a key out of force, for ever, with its sessions. Again, it changes nothing. Raises `NotFound`."""
        revoke = update(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
        with storage_errors(self._engine), writing(self._engine) as connection:
            connection.execute(revoke)
            row = connection.execute(select(api_keys).where(api_keys.c.name == name)).mappings().one_or_none()
            if row is None:
                raise NotFound(f"no key is called {name[:70]!r}; `evermoe keys list` shows them")
            connection.execute(delete(sessions).where(sessions.c.api_key == row["id"]))
        return ApiKey(**row)

    def open_session(self, key: ApiKey, now: datetime, lasts: timedelta) -> str:
        """Begin a session of `key`; returns its token, which is kept nowhere. Sessions that are over are forgotten."""
        token = secrets.token_urlsafe(SECRET_BYTES)
        with storage_errors(self._engine), writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
            connection.execute(
                sessions.insert().values(token_sha256=sha256(token), api_key=key.id, expires_at=now + lasts)
            )
        return token

    def key_of_session(self, token: str, now: datetime) -> ApiKey | None:
        """The key, still in force, whose session this is; None for one that is over or never was."""
        query = (
            select(api_keys)
            .join(sessions, sessions.c.api_key == api_keys.c.id)
            .where(
                sessions.c.token_sha256 == sha256(token), sessions.c.expires_at > now, api_keys.c.revoked_at.is_(None)
            )
        )
        with storage_errors(self._engine), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else ApiKey(**row)

    def close_session(self, token: str) -> None:
        """End a session; one that is over already stays so."""
        with storage_errors(self._engine), writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.token_sha256 == sha256(token)))

    def exist(self) -> bool:
        """Whether a key was ever made. From then on keys are required: revoking the last one opens nothing."""
        with storage_errors(self._engine), self._engine.connect() as connection:
            return bool(connection.scalar(select(func.count()).select_from(api_keys)))


def holder(text: str, keys: Mapping[str, ApiKey]) -> ApiKey | None:
    """The key in force that `text` is, of `keys` by id. The time it takes says nothing about the secret."""
    prefix, _, rest = text.partition("_")
    id, _, secret = rest.partition("_")
    key = keys.get(id)
    right = hmac.compare_digest(sha256(secret), key.secret_sha256 if key else NOBODY)
    return key if key is not None and key.in_force and right and prefix == "evermoe" else None


def sha256(secret: str) -> str:
    """In hex, of what the database keeps in place of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


NOBODY = sha256(secrets.token_urlsafe(SECRET_BYTES))
"""What the secret of an unknown key is compared with, so that it takes as long as a known one."""
