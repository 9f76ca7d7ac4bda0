"""API keys and sessions: shown once, kept as hashes, ended for good; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from rows_for_tests import NOON
from sqlalchemy import select

from evermoe.errors import BadInput, Conflict, NotFound
from monitoring.keys import ApiKey, Keys, holder
from monitoring.schema import METADATA, open_database

DAY = timedelta(days=1)


@pytest.fixture
def keys(url: str) -> Iterator[Keys]:
    """The keys of an empty database."""
    engine = open_database(url)
    yield Keys(engine)
    engine.dispose()


def by_id(keys: Keys) -> dict[str, ApiKey]:
    return {key.id: key for key in keys.all()}


def test_a_key_is_known_by_its_text_with_its_name_and_role(keys: Keys) -> None:
    made = keys.create("ann", "operator", NOON)
    assert holder(made.text, by_id(keys)) == made.key
    assert (made.key.name, made.key.role, made.key.created_at, made.key.in_force) == ("ann", "operator", NOON, True)


def test_the_database_holds_neither_a_key_nor_a_session_that_could_be_used(url: str, keys: Keys) -> None:
    made = keys.create("ann", "operator", NOON)
    token = keys.open_session(made.key, NOON, DAY)
    engine = open_database(url)
    with engine.connect() as connection:
        kept = "".join(str(row) for table in METADATA.sorted_tables for row in connection.execute(select(table)))
    engine.dispose()
    assert made.key.id in kept
    assert made.text.split("_", 2)[2][:12] not in kept
    assert token[:12] not in kept
    assert made.text not in repr(made)
    assert made.key.secret_sha256 not in repr(made)


def test_no_two_keys_are_alike(keys: Keys) -> None:
    texts = [keys.create(f"k{number}", "client", NOON).text for number in range(20)]
    assert len(set(texts)) == 20
    assert all(len(text.split("_", 2)[2]) >= 43 for text in texts)  # 256 bits in base64


def test_what_is_no_key_in_force_is_nobodys(keys: Keys) -> None:
    ann, bob = keys.create("ann", "client", NOON), keys.create("bob", "client", NOON)
    keys.revoke("bob", NOON)
    secret = ann.text.split("_", 2)[2]
    wrong = [
        *(bob.text, ann.text[:-1], f"{ann.text}x", f"evermoe_{bob.key.id}_{secret}", f"other_{ann.key.id}_{secret}"),
        *(
            f"evermoe_{ann.key.id}_",
            f"evermoe_{ann.key.id}",
            ann.key.id,
            secret,
            "",
            "_",
            "__",
            "evermoe__",
            "\ud800_é_\0",
        ),
        f"evermoe_{ann.key.id}_{ann.key.secret_sha256}",
    ]
    assert [holder(text, by_id(keys)) for text in wrong] == [None] * len(wrong)


@pytest.mark.parametrize("name", ["", " ann", "ann b", "x" * 65, "ann)", "<b>", ".ann", "ann\n"])
def test_a_name_that_an_audit_could_not_show_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(BadInput, match="is no name for a key"):
        keys.create(name, "client", NOON)


def test_a_role_that_is_none_is_refused_with_those_there_are(keys: Keys) -> None:
    with pytest.raises(BadInput, match="'root' is no role; use one of client, reviewer, operator"):
        keys.create("ann", "root", NOON)


def test_a_name_means_one_key_even_after_it_was_revoked(keys: Keys) -> None:
    keys.create("ann", "client", NOON)
    keys.revoke("ann", NOON)
    with pytest.raises(Conflict, match="a key called ann was made before"):
        keys.create("ann", "operator", NOON)
    assert len(keys.all()) == 1


def test_a_revoked_key_stays_so_with_the_time_at_which_it_happened(keys: Keys) -> None:
    keys.create("ann", "client", NOON)
    assert keys.revoke("ann", NOON + DAY).revoked_at == NOON + DAY
    assert keys.revoke("ann", NOON + 2 * DAY).revoked_at == NOON + DAY
    with pytest.raises(NotFound, match="no key is called 'bob'"):
        keys.revoke("bob", NOON)


def test_from_the_first_key_on_keys_exist_whatever_is_revoked(keys: Keys) -> None:
    assert not keys.exist()
    keys.create("ann", "client", NOON)
    keys.revoke("ann", NOON)
    assert keys.exist()


def test_a_session_is_its_keys_until_it_is_over_closed_or_the_key_revoked(keys: Keys) -> None:
    made = keys.create("ann", "operator", NOON)
    lasting, closed = (keys.open_session(made.key, NOON, DAY) for _ in range(2))
    keys.close_session(closed)
    assert keys.key_of_session(lasting, NOON + DAY - timedelta(seconds=1)) == made.key
    assert keys.key_of_session(lasting, NOON + DAY) is None
    assert keys.key_of_session(closed, NOON) is None
    assert keys.key_of_session(made.text, NOON) is None
    keys.revoke("ann", NOON)
    assert keys.key_of_session(lasting, NOON) is None
    late = keys.open_session(made.key, NOON, DAY)  # by a gateway that had not heard of it yet
    assert keys.key_of_session(late, NOON) is None
