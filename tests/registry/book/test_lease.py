"""The lease: one controller at a time, tokens that only grow, and nothing written by one that lost it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from evermoe.errors import Conflict
from registry.actions import steering
from registry.book.lease import LASTS, Fenced
from registry.book.ledger import Ledger
from registry.rollout import Decision, Policy, Rollout, new_rollout

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
LATER = NOON + LASTS + timedelta(seconds=1)
UP = Decision("advance", 0.1, "no harm")


def june() -> Rollout:
    return new_rollout("june", "2025-06", "1", "2", "salt-june", Policy(), NOON)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with Ledger(database_url) as book:
        book.open(june(), by="monthly")
        yield book


def test_while_one_controller_holds_the_lease_no_other_gets_it(ledger: Ledger, database_url: str) -> None:
    with Ledger(database_url) as other, ledger.lease("one", lambda: NOON) as held:
        assert held is not None
        with other.lease("two", lambda: NOON) as second:
            assert second is None
        assert ledger.apply("june", UP, "one", NOON, held=held).share == 0.1


def test_a_lease_that_was_given_back_can_be_taken_at_once(ledger: Ledger) -> None:
    with ledger.lease("one", lambda: NOON) as held:
        assert held is not None
    with ledger.lease("two", lambda: NOON) as second:
        assert second is not None
        assert second.token > held.token


def test_a_controller_that_slept_past_its_lease_writes_nothing(ledger: Ledger, database_url: str) -> None:
    with Ledger(database_url) as other, ledger.lease("one", lambda: NOON) as held:
        with other.lease("two", lambda: LATER) as second:
            assert held is not None
            assert second is not None
            with pytest.raises(Fenced, match="one no longer steers the rollouts: two took over"):
                ledger.apply("june", UP, "one", LATER, held=held)
            with pytest.raises(Fenced):
                ledger.open(june(), "one", held=held)
            assert other.apply("june", UP, "two", LATER, held=second).revision == 1
    assert [row.by for row in ledger.history()] == ["monthly", "two"]


def test_a_lease_that_ran_out_and_that_nobody_took_still_writes(ledger: Ledger) -> None:
    with ledger.lease("one", lambda: NOON) as held:
        assert ledger.apply("june", UP, "one", LATER, held=held).revision == 1


def test_a_loser_that_gives_its_lease_back_takes_nothing_from_the_winner(ledger: Ledger, database_url: str) -> None:
    with Ledger(database_url) as other:
        first = ledger.lease("one", lambda: NOON)
        first.__enter__()
        with other.lease("two", lambda: LATER):
            first.__exit__(None, None, None)
            with ledger.lease("three", lambda: LATER) as third:
                assert third is None


def test_a_person_need_not_wait_and_fences_the_controller_in_the_same_transaction(ledger: Ledger) -> None:
    with ledger.lease("flow", lambda: NOON) as held:
        ledger.apply("june", steering.pause(june()), "ann", NOON)
        with pytest.raises(Fenced, match="ann took over"):
            ledger.apply("june", UP, "flow", NOON, held=held)
    assert ledger.get("june").status == "paused"


def test_a_person_whose_decision_is_refused_takes_no_lease(ledger: Ledger) -> None:
    with ledger.lease("flow", lambda: NOON) as held:
        with pytest.raises(Conflict):
            ledger.apply("june", Decision("resume", 0.05, "not paused"), "ann", NOON)
        assert ledger.apply("june", UP, "flow", NOON, held=held).revision == 1
