"""What the event log keeps and what it answers, on both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rows_for_tests import MINUTE, NOON, a_feedback, a_request
from sqlalchemy import update

from evermoe.errors import BadInput, Conflict, Expired, HomeTooNew, NotFound, StorageUnavailable
from monitoring.database import connect
from monitoring.events import CLIENT_LEFT, Answered, Counts, EventLog, Receipt, Reward
from monitoring.rows import CUT_TO_NOTHING
from monitoring.schema import schema_versions


def test_a_request_reads_back_as_it_was_written(log: EventLog) -> None:
    plain = a_request("plain")
    bare = a_request("bare", scores=None, rollout=None, unit_given=False, error="no answer in time", experts=())
    log.record(plain)
    log.record(bare)
    assert log.request("plain") == plain
    assert log.request("bare") == bare


def test_any_string_reads_back_as_it_was_written(log: EventLog) -> None:
    strange = "nul \x00, lone surrogate \ud800, sub \x1a0041, \U0001f600, '; drop table requests; --"
    row = a_request("r\x00\ud83d", input=strange, output=strange, scores={strange: 1.0}, unit=strange)
    log.record(row)
    assert log.request(row.id) == row
    assert log.record(a_feedback("k\x00", row.id, label=strange)).reward == 1.0


def test_times_are_kept_in_utc_whatever_zone_they_came_in(log: EventLog) -> None:
    there = datetime(2025, 6, 1, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    log.record(a_request(at=there))
    stored = log.request("r1").at
    assert stored == there
    assert stored.tzinfo is UTC


def test_the_same_request_sent_again_counts_once(log: EventLog) -> None:
    log.record(a_request())
    log.record(a_request())
    again = [log.append(a_request()), log.append(a_request())]
    assert [future.result() for future in again] == [None, None]
    assert log.counts() == Counts(requests=1, feedback=0)


def test_another_request_with_a_used_id_is_refused_and_the_first_stays(log: EventLog) -> None:
    log.record(a_request(output="network"))
    with pytest.raises(Conflict, match="another request already has the id r1"):
        log.record(a_request(output="database"))
    assert log.request("r1").output == "network"


def test_a_score_is_the_reward(log: EventLog) -> None:
    log.record(a_request())
    assert log.record(a_feedback(score=0.25, label="network")) == Receipt(True, 0.25, "counted")


@pytest.mark.parametrize(("label", "reward"), [("network", 1.0), ("database", 0.0), ("never seen before", 0.0)])
def test_a_label_is_rewarded_when_it_is_what_was_answered(log: EventLog, label: str, reward: float) -> None:
    log.record(a_request(output="network"))
    assert log.record(a_feedback(label=label)).reward == reward


def test_a_second_feedback_with_the_same_key_counts_once(log: EventLog) -> None:
    log.record(a_request())
    log.record(a_feedback("k1"))
    assert log.record(a_feedback("k1")) == Receipt(False, None, "duplicate")
    assert log.record(a_feedback("k1", score=0.1)) == Receipt(False, None, "duplicate")
    assert log.counts() == Counts(requests=1, feedback=1)
    assert [found.reward for found in log.rewards("2025-06")] == [1.0]


def test_a_second_feedback_with_another_key_is_kept_but_not_counted(log: EventLog) -> None:
    log.record(a_request())
    log.record(a_feedback("k1", label="database"))
    assert log.record(a_feedback("k2", label="network")) == Receipt(False, None, "response already has feedback")
    assert log.counts() == Counts(requests=1, feedback=2)
    assert [found.reward for found in log.rewards("2025-06")] == [0.0]


def test_a_key_used_for_another_response_is_refused_rather_than_dropped(log: EventLog) -> None:
    log.record(a_request("r1"))
    log.record(a_request("r2"))
    log.record(a_feedback("k1", "r1"))
    with pytest.raises(Conflict, match="key k1 belongs to feedback on another response"):
        log.record(a_feedback("k1", "r2"))
    assert [found.response_id for found in log.rewards("2025-06")] == ["r1"]


def test_feedback_for_an_unknown_response_is_not_found(log: EventLog) -> None:
    with pytest.raises(NotFound, match="no response has the id nothing"):
        log.record(a_feedback(response_id="nothing"))
    assert log.counts() == Counts(requests=0, feedback=0)


def test_feedback_is_taken_from_the_api_key_that_received_the_response_alone(log: EventLog) -> None:
    log.record(a_request(api_key="ann"))
    refusals = []
    for row in (a_feedback(api_key="bob"), a_feedback(), a_feedback(response_id="r9", api_key="bob")):
        with pytest.raises(NotFound) as refused:
            log.record(row)
        refusals.append(str(refused.value).replace("r9", "r1"))
    assert len(set(refusals)) == 1  # bob cannot tell ann's response from one that never was
    assert log.record(a_feedback(api_key="ann")).counted


def test_a_response_from_before_keys_were_needed_takes_feedback_from_anyone_once(log: EventLog) -> None:
    log.record(a_request())
    assert log.record(a_feedback(api_key="ann")).counted
    assert not log.record(a_feedback(api_key="bob")).counted


def test_each_api_key_has_idempotency_keys_of_its_own(log: EventLog) -> None:
    log.record(a_request("r1", api_key="ann"))
    log.record(a_request("r2", api_key="bob"))
    assert log.record(a_feedback("k1", "r1", api_key="ann")).counted
    assert log.record(a_feedback("k1", "r2", api_key="bob")).counted
    assert log.record(a_feedback("k1", "r2", api_key="bob")).reason == "duplicate"


def test_feedback_is_taken_within_its_window_and_a_retry_of_it_for_ever(url: str) -> None:
    with EventLog(url, feedback_window=timedelta(days=2)) as log:
        log.record(a_request())
        with pytest.raises(Expired, match="r1 is from 2025-06-01; feedback is taken for 2 days"):
            log.record(a_feedback("late", at=NOON + timedelta(days=2, seconds=1)))
        assert log.record(a_feedback(at=NOON + timedelta(days=2))).counted
        assert log.record(a_feedback(at=NOON + timedelta(days=9))).reason == "duplicate"
        assert log.counts().feedback == 1


def test_an_unknown_request_is_not_found(log: EventLog) -> None:
    with pytest.raises(NotFound, match="no response has the id nothing"):
        log.request("nothing")


def test_bad_rows_fail_alone_among_rows_that_wait_together(log: EventLog) -> None:
    rows = [
        a_request("r1"),
        a_request("r1", output="another"),
        a_feedback("k1", "r1"),
        a_feedback("k2", "nothing"),
        a_feedback("k1", "r1"),
        a_request("r2", prompt_tokens=2**70),
        a_feedback("k3", "r3"),
        a_request("r3", input=5),
        a_request("r4"),
        a_feedback("k4", "r4", score=0.5),
    ]
    futures = [log.append(row) for row in rows]
    errors = [type(future.exception(timeout=30)) for future in futures]
    fine = type(None)
    assert errors == [fine, Conflict, fine, NotFound, fine, BadInput, NotFound, BadInput, fine, fine]
    assert log.counts() == Counts(requests=2, feedback=2)
    assert [found.reward for found in log.rewards("2025-06")] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (a_request(at=datetime(2025, 6, 1)), "no time zone"),
        (a_request(id=""), "1 to 256 characters"),
        (a_request(id="x" * 257), "1 to 256 characters"),
        (a_request(propensity=0.0), "propensity"),
        (a_request(propensity=float("nan")), "propensity"),
        (a_request(latency_ms=float("inf")), "latency"),
        (a_request(latency_ms="slow"), "cannot be stored"),
        (a_feedback(at=datetime(2025, 6, 1)), "no time zone"),
        (a_feedback(label=None), "give a score from 0 to 1 or the right label"),
        (a_feedback(score=1.01), "not between 0 and 1"),
        (a_feedback(score=float("nan")), "not between 0 and 1"),
    ],
)
def test_a_row_that_would_mean_nothing_is_refused_in_one_line(log: EventLog, row: object, why: str) -> None:
    with pytest.raises(BadInput, match=why) as raised:
        log.record(row)  # type: ignore[call-overload]
    assert "\n" not in str(raised.value)
    assert log.counts() == Counts(requests=0, feedback=0)


def test_rewards_come_in_order_of_arrival_with_what_an_experiment_needs(log: EventLog) -> None:
    log.record(a_request("r1", unit="ann", arm="champion", version="3", propensity=0.95))
    log.record(a_request("r2", unit="anonymous-1", unit_given=False, arm="challenger", version="4", propensity=0.05))
    log.record(a_request("r3", rollout="another"))
    log.record(a_request("r4", rollout=None))
    for number in (3, 2, 4, 1):
        log.record(a_feedback(f"k{number}", f"r{number}", at=NOON + number * MINUTE, score=number / 4))
    assert log.rewards("2025-06") == [
        Reward("r2", "anonymous-1", False, "challenger", "4", 0.05, 0.5, NOON, NOON + 2 * MINUTE, False),
        Reward("r1", "ann", True, "champion", "3", 0.95, 0.25, NOON, NOON + MINUTE, False),
    ]
    assert log.rewards("none of that name") == []


def test_a_reward_says_whether_the_other_arm_is_known_to_answer_alike(log: EventLog) -> None:
    for number, shadow in enumerate((None, "network", "database")):
        log.record(a_request(f"r{number}", output="network", shadow=shadow))
        log.record(a_feedback(f"k{number}", f"r{number}"))
    assert [(reward.response_id, reward.agreed) for reward in log.rewards("2025-06")] == [
        ("r0", False),
        ("r1", True),
        ("r2", False),
    ]


def test_an_answer_that_failed_is_a_loss_of_its_arm_in_its_place_among_the_feedback(log: EventLog) -> None:
    for number in range(5):
        log.record(
            a_request(f"r{number}", at=NOON + number * MINUTE, error="RuntimeError: crash" if number % 2 else None)
        )
    log.record(a_request("other", rollout="another", error="RuntimeError: crash"))
    for number, arrived in ((4, 9), (0, 2), (2, 3)):
        log.record(a_feedback(f"k{number}", f"r{number}", at=NOON + arrived * MINUTE, score=1.0))
    found = [(one.response_id, one.reward, one.at) for one in log.rewards("2025-06")]
    assert found == [
        ("r1", 0.0, NOON + MINUTE),
        ("r3", 0.0, NOON + 3 * MINUTE),
        ("r4", 1.0, NOON + 9 * MINUTE),
        ("r0", 1.0, NOON + 2 * MINUTE),
        ("r2", 1.0, NOON + 3 * MINUTE),
    ]


def test_a_failed_answer_that_has_feedback_counts_once_and_as_failed(log: EventLog) -> None:
    log.record(a_request(error="RuntimeError: crash", shadow="network"))
    log.record(a_feedback(score=1.0))
    assert log.rewards("2025-06") == [Reward("r1", "ann", True, "champion", "3", 0.95, 0.0, NOON, NOON, False)]


@pytest.mark.parametrize("error", [CLIENT_LEFT, f"ConnectionError: {CLIENT_LEFT}", CUT_TO_NOTHING])
def test_a_client_that_left_before_the_end_is_no_fault_of_the_arm(log: EventLog, error: str) -> None:
    log.record(a_request("r1", error=error))
    log.record(a_request("r2", error=error))
    log.record(a_feedback("k2", "r2", score=0.75))
    assert [(one.response_id, one.reward) for one in log.rewards("2025-06")] == [("r2", 0.75)]


def test_a_label_that_follows_a_score_is_told_in_the_window_in_which_it_arrived(log: EventLog) -> None:
    log.record(a_request())
    log.record(a_feedback("thumb", at=NOON + 5 * MINUTE, score=0.0, label=None))
    log.record(a_feedback("right", at=NOON + 9 * MINUTE, label="database"))
    log.record(a_feedback("wavering", at=NOON + 9 * MINUTE, label="storage"))
    told_first, told_later = log.told(NOON, NOON + 9 * MINUTE), log.told(NOON + 9 * MINUTE, NOON + 11 * MINUTE)
    assert told_first == [Answered(a_request(), None, 0.0, NOON + 5 * MINUTE)]
    assert told_later == [Answered(a_request(), "database", 0.0, NOON + 9 * MINUTE)]
    assert log.told(NOON, NOON + 11 * MINUTE) == told_later
    assert log.told(NOON + 10 * MINUTE, NOON + 11 * MINUTE) == []


def test_answered_takes_the_label_from_the_first_feedback_that_has_one_if_it_was_known(log: EventLog) -> None:
    log.record(a_request())
    log.record(a_feedback("thumb", at=NOON + 5 * MINUTE, score=0.0, label=None))
    log.record(a_feedback("right", at=NOON + 9 * MINUTE, label="database"))
    window = (NOON, NOON + MINUTE)
    assert log.answered(*window, known_by=NOON + 8 * MINUTE) == [Answered(a_request(), None, 0.0, NOON + 5 * MINUTE)]
    assert log.answered(*window, known_by=NOON + 9 * MINUTE) == [
        Answered(a_request(), "database", 0.0, NOON + 9 * MINUTE)
    ]


def test_told_shows_what_was_answered_for_in_a_window_whenever_it_was_asked(log: EventLog) -> None:
    for minute in range(3):
        log.record(a_request(f"r{minute}", at=NOON + minute * MINUTE))
    for minute, told in ((0, 5), (1, 9), (2, 10)):
        log.record(a_feedback(f"k{minute}", f"r{minute}", at=NOON + told * MINUTE))
    log.record(a_feedback("again", "r0", at=NOON + 9 * MINUTE, label="database"))
    assert [one.request.id for one in log.told(NOON, NOON + 9 * MINUTE)] == ["r0"]
    assert [one.request.id for one in log.told(NOON + 9 * MINUTE, NOON + 11 * MINUTE)] == ["r1", "r2"]
    assert [one.label for one in log.told(NOON, NOON + 11 * MINUTE)] == ["network"] * 3


def test_answered_shows_a_window_with_only_the_feedback_known_by_then(log: EventLog) -> None:
    asked = [a_request(f"r{minute}", at=NOON + minute * MINUTE) for minute in range(4)]
    for row in reversed(asked):
        log.record(row)
    log.record(a_feedback("early", "r1", at=NOON + 5 * MINUTE, label="database"))
    log.record(a_feedback("late", "r2", at=NOON + 9 * MINUTE, score=0.5, label=None))
    log.record(a_feedback("other", "r3", at=NOON + 5 * MINUTE, label="database"))
    window = (NOON + MINUTE, NOON + 3 * MINUTE)
    early = Answered(asked[1], "database", 0.0, NOON + 5 * MINUTE)
    assert log.answered(*window, known_by=NOON + 8 * MINUTE) == [early, Answered(asked[2], None, None, None)]
    assert log.answered(*window, known_by=NOON + 9 * MINUTE)[1] == Answered(asked[2], None, 0.5, NOON + 9 * MINUTE)


def test_rows_of_many_threads_are_all_there(log: EventLog) -> None:
    def append(thread: int) -> None:
        futures = [log.append(a_request(f"{thread}-{number}")) for number in range(100)]
        receipts = [log.append(a_feedback(f"k{thread}-{number}", f"{thread}-{number}")) for number in range(100)]
        assert all(future.result() is None for future in futures)
        assert all(receipt.result().counted for receipt in receipts)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.counts() == Counts(requests=800, feedback=800)
    assert len(log.rewards("2025-06")) == 800


def test_two_processes_with_one_log_count_a_response_once(url: str) -> None:
    with EventLog(url) as here, EventLog(url) as there:
        for number in range(50):
            here.record(a_request(f"r{number}"))
        receipts = [
            log.append(a_feedback(f"{name}-{number}", f"r{number}"))
            for number in range(50)
            for name, log in (("here", here), ("there", there))
        ]
        counted = [receipt.result().counted for receipt in receipts]
        assert [counted[pair] + counted[pair + 1] for pair in range(0, 100, 2)] == [1] * 50
        assert here.counts() == there.counts() == Counts(requests=50, feedback=100)
        assert len(here.rewards("2025-06")) == 50


def test_logs_opened_at_the_same_moment_share_the_tables(url: str) -> None:
    opened: list[EventLog] = []
    threads = [threading.Thread(target=lambda: opened.append(EventLog(url))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, log in enumerate(opened):
        log.record(a_request(f"r{number}"))
    assert opened[0].counts().requests == len(opened) == 6
    for log in opened:
        log.close()


def test_closing_writes_what_is_queued(url: str) -> None:
    log = EventLog(url)
    futures = [log.append(a_request(f"r{number}")) for number in range(1000)]
    log.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(StorageUnavailable, match="closed"):
        log.record(a_request("late"))
    with EventLog(url) as reopened:
        assert reopened.counts().requests == 1000


def test_a_log_of_a_newer_version_is_refused(url: str) -> None:
    with EventLog(url) as log, log.engine.begin() as connection:
        connection.execute(update(schema_versions).values(version=99))
    with pytest.raises(HomeTooNew, match="format 99"):
        EventLog(url)


@pytest.mark.parametrize("driver", ["", "+psycopg2", "+asyncpg", "+psycopg"])
def test_postgresql_is_spoken_by_the_driver_that_is_installed_whatever_its_address_says(driver: str) -> None:
    assert connect(f"postgresql{driver}://root@127.0.0.1/test").driver == "psycopg"


@pytest.mark.parametrize(
    "address", ["nonsense", "mysql://root@127.0.0.1/x", "sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///x.db"]
)
def test_an_address_we_do_not_know_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="sqlite:///FILE or postgresql://"):
        EventLog(address)


def test_sqlite_commits_reach_the_disk_before_they_are_acknowledged(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log, log.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_row_object_is_not_changed_by_writing_it(log: EventLog) -> None:
    row = a_request()
    copy = replace(row)
    log.record(row)
    assert row == copy


def test_postgresql_is_asked_to_sync_each_commit_whatever_the_server_does_by_default(postgres_url: str) -> None:
    careless = postgres_url.replace("-csearch_path", "-csynchronous_commit%3Doff -csearch_path")
    with EventLog(careless) as log, log.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_reward_carries_the_shares_of_several_arms_whether_it_was_told_or_failed(log: EventLog) -> None:
    shares = {"champion": 0.85, "challenger:5": 0.05, "challenger:6": 0.1}
    row = {"arm": "challenger:6", "propensity": 0.1, "shares": shares}
    log.record(a_request("r1", **row))
    log.record(a_request("r2", at=NOON + MINUTE, unit="bob", error="RuntimeError: crash", **row))
    log.record(a_feedback("k1", "r1", at=NOON + 2 * MINUTE))
    assert [(one.response_id, one.shares) for one in log.rewards("2025-06")] == [("r2", shares), ("r1", shares)]
    assert log.request("r1").shares == shares
    log.record(a_request("r1", **row))  # sent again, it is the same request
