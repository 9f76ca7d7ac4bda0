"""What a rollout's watch asks of the log: the first request of each unit, and units that met both arms."""

from __future__ import annotations

from monitoring.events import CLIENT_LEFT, Crossings, EventLog
from tests.monitoring.rows_for_tests import MINUTE, NOON, a_request


def asked(
    log: EventLog, number: int, unit: str, arm: str = "champion", propensity: float = 0.95, **more: object
) -> None:
    row = {"at": NOON + number * MINUTE, "unit": unit, "arm": arm, "propensity": propensity}
    log.record(a_request(f"r{number}", **row | more))


def test_only_the_first_request_of_a_unit_is_a_draw(log: EventLog) -> None:
    asked(log, 2, "ann", "challenger", 0.25)
    asked(log, 1, "ann")
    asked(log, 3, "bob", "challenger", 0.25)
    asked(log, 4, "eve", rollout="another")
    found = log.first_requests("2025-06", slow_ms=1000)
    assert [(one.at, one.arm, one.propensity) for one in found] == [
        (NOON + MINUTE, "champion", 0.95),
        (NOON + 3 * MINUTE, "challenger", 0.25),
    ]


def test_what_went_wrong_is_marked_once(log: EventLog) -> None:
    asked(log, 1, "a", error="RuntimeError: crash", output="")
    asked(log, 2, "b", error=CLIENT_LEFT, output="")
    asked(log, 3, "c", latency_ms=1000.5)
    asked(log, 4, "d", output="  ")
    asked(log, 5, "e", output=" I'm sorry, but no")
    asked(log, 6, "f", output="not sorry")
    found = log.first_requests("2025-06", slow_ms=1000, refusals=["i'm SORRY"])
    assert [(one.failed, one.slow, one.empty) for one in found] == [
        (True, False, False),
        (False, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, True),
        (False, False, False),
    ]


def test_the_first_requests_of_a_version_are_those_of_its_time_but_for_pinned_ones(log: EventLog) -> None:
    asked(log, 1, "ann", version="4")
    asked(log, 2, "ann", version="4", error="crash")
    asked(log, 3, "bob", "pinned", 1.0, version="4", rollout=None)
    asked(log, 4, "eve", version="5")
    asked(log, 5, "joe", version="4", rollout=None, propensity=1.0)
    found = log.first_requests_of_version("4", NOON + 2 * MINUTE, NOON + 5 * MINUTE, slow_ms=1000)
    assert [(one.at, one.version, one.failed) for one in found] == [(NOON + 2 * MINUTE, "4", True)]


def test_a_unit_that_moves_as_the_share_rises_or_falls_did_not_cross(log: EventLog) -> None:
    asked(log, 1, "ann", "champion", 0.95)
    asked(log, 2, "ann", "challenger", 0.1)
    asked(log, 3, "ann", "champion", 0.95)
    asked(log, 4, "bob", "champion", 0.75)
    assert log.crossings("2025-06") == Crossings(units=2, crossed=0)
    assert log.crossings("unknown") == Crossings(units=0, crossed=0)


def test_a_unit_that_met_the_champion_at_a_share_at_which_it_is_the_challengers_crossed(log: EventLog) -> None:
    asked(log, 1, "ann", "challenger", 0.25)
    asked(log, 2, "ann", "champion", 0.75)
    asked(log, 3, "bob", "challenger", 0.05)
    asked(log, 4, "bob", "champion", 0.5)
    asked(log, 5, "eve", "champion", 0.5)
    assert log.crossings("2025-06") == Crossings(units=3, crossed=2)


def test_of_several_challengers_a_unit_crosses_where_no_draw_takes_it_from_one_arm_to_another(log: EventLog) -> None:
    def met(number: int, unit: str, arm: str, champion: float, five: float, six: float) -> None:
        shares = {"champion": champion, "challenger:5": five, "challenger:6": six}
        asked(log, number, unit, arm, shares[arm], shares=shares)

    met(1, "ann", "challenger:5", 0.5, 0.25, 0.25)
    met(2, "ann", "challenger:6", 0.2, 0.2, 0.6)  # where 6 rose against 5: so it may
    met(3, "bob", "challenger:5", 0.5, 0.25, 0.25)
    met(4, "bob", "challenger:6", 0.2, 0.6, 0.2)  # where 5 rose against 6: no draw does that
    met(5, "eve", "challenger:5", 0.5, 0.3, 0.2)
    met(6, "eve", "champion", 0.7, 0.0, 0.3)  # its arm went
    assert log.crossings("2025-06") == Crossings(units=3, crossed=1)
    assert log.first_requests("2025-06", slow_ms=1000)[0].shares == {
        "champion": 0.5,
        "challenger:5": 0.25,
        "challenger:6": 0.25,
    }
