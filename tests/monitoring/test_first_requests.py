"""What a rollout's watch asks of the log: the first request of each unit, and units that met several arms."""

from __future__ import annotations

from monitoring.events import CLIENT_LEFT, EventLog, Met, Units
from monitoring.rows import CUT_TO_NOTHING
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
    asked(log, 7, "g", output="\n\u00a0\t\r\n")
    asked(log, 8, "h", output="\n I\u2019m sorry, but no")
    asked(log, 9, "i", output="Извините, но я не могу")
    asked(log, 10, "j", output="", error=CUT_TO_NOTHING)
    found = log.first_requests("2025-06", slow_ms=1000, refusals=["i'm SORRY", "извините, но"])
    assert [(one.failed, one.slow, one.empty) for one in found] == [
        (True, False, False),
        (False, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, True),
        (False, False, False),
        (False, False, True),
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


def test_of_units_whose_arms_one_share_does_not_explain_everything_they_met_is_told(log: EventLog) -> None:
    asked(log, 1, "ann", "champion", 0.5)
    asked(log, 2, "ann", "challenger", 0.1)
    asked(log, 3, "ann", "challenger", 0.1)
    asked(log, 4, "bob", "champion", 0.75)
    asked(log, 7, "bob", "challenger", 0.3)
    asked(log, 5, "eve", "pinned", 1.0)
    asked(log, 6, "joe", "challenger", 0.1, rollout="another")
    found = log.units("2025-06")
    assert (found.count, len(found.moved)) == (2, 1)
    assert set(found.moved[0]) == {Met("champion", 0.5, None), Met("challenger", 0.1, None)}
    assert log.units("unknown") == Units(0, ())


def test_with_several_challengers_the_shares_of_all_arms_are_told(log: EventLog) -> None:
    shares = {"champion": 0.5, "challenger:5": 0.25, "challenger:6": 0.25}
    asked(log, 1, "ann", "challenger:5", 0.25, shares=shares)
    asked(log, 2, "ann", "challenger:6", 0.25, shares=shares)
    assert {one.arm for one in log.units("2025-06").moved[0]} == {"challenger:5", "challenger:6"}
    assert all(one.shares == shares for one in log.units("2025-06").moved[0])
    assert log.first_requests("2025-06", slow_ms=1000)[0].shares == shares
