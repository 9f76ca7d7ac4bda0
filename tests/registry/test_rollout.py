"""The rollout's state machine: what it does by itself, what a person may do, and what nobody may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evermoe.errors import BadInput, Conflict
from registry.actions import steering
from registry.deciding import Watch, decide, guard, make_way
from registry.evidence import Verdict
from registry.rollout import Decision, Policy, Rollout, new_rollout, transition
from registry.rules.best_arm import Standing
from registry.rules.guardrails import Guarded, Limits
from registry.rules.signals import Signal

OPENED = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = Policy(alpha=0.05, shares=(0.05, 0.1, 0.25, 0.5), min_rewards_per_step=8, max_days=62)
HAND: list[Callable[[Rollout], Decision]] = [
    steering.pause,
    steering.resume,
    steering.promote,
    steering.abort,
    lambda x: steering.set_share(x, 0.3),
    lambda x: make_way(x, verdict(), "2025-07"),
]


def opened(**changes: Any) -> Rollout:
    """Version 2 against 1; `share` is the challenger's."""
    rollout = new_rollout("june", "2025-06", "1", "2", "salt", POLICY, OPENED)
    if "share" in changes:
        changes["challengers"] = (replace(rollout.challengers[0], share=changes.pop("share")),)
    return replace(rollout, **changes)


def verdict(decision: Any = "continue", e_abort: float = 1.0, e_promote: float = 1.0) -> Standing:
    counts = {"champion": 9, "challenger": 3}
    return Standing.of(Verdict(decision, 0.1, (-0.2, 0.4), e_promote, e_abort, 40.0, counts, {}, "because", OPENED))


def decided(rollout: Rollout, seen: Standing, *, days: float = 1, rewards: int = 100) -> Decision:
    return decide(rollout, seen, POLICY, OPENED + timedelta(days=days), rewards)


def test_a_new_rollout_starts_at_the_foot_of_the_ramp() -> None:
    assert (opened().share, opened().step, opened().status) == (0.05, 0, "running")


def test_enough_rewards_without_harm_climb_one_step() -> None:
    assert decided(opened(), verdict(), rewards=8).action == "advance"
    assert decided(opened(), verdict(), rewards=8).share == 0.1


def test_too_few_rewards_at_this_step_hold_it() -> None:
    decision = decided(opened(), verdict(), rewards=7)
    assert (decision.action, decision.share) == ("hold", 0.05)
    assert "7 of 8 rewards" in decision.reason


def test_a_smell_of_harm_holds_the_share_and_says_so() -> None:
    assert decided(opened(), verdict(e_abort=6.4)).action == "hold"
    assert "smell of harm" in decided(opened(), verdict(e_abort=6.4)).reason
    assert decided(opened(), verdict(e_abort=6.3)).action == "advance"


def test_the_top_of_the_ramp_waits_for_proof() -> None:
    assert decided(opened(share=0.5), verdict()).action == "hold"


def test_proof_promotes_or_aborts_at_any_step() -> None:
    assert decided(opened(), verdict("promote"), rewards=0) == Decision("promote", 0.05, "because")
    assert decided(opened(), verdict("abort"), rewards=0) == Decision("abort", 0.0, "because")


def test_after_max_days_without_proof_the_champion_stays() -> None:
    assert decided(opened(), verdict(), days=61.9).action == "advance"
    assert decided(opened(), verdict(), days=62).action == "inconclusive"
    assert decided(opened(), verdict("promote"), days=62).action == "promote"  # proof at the last moment counts


def test_a_paused_rollout_does_nothing_by_itself() -> None:
    for seen in (verdict(), verdict("promote"), verdict("abort")):
        assert decided(opened(status="paused"), seen, days=100).action == "hold"


def test_a_closed_rollout_is_never_reopened_by_late_evidence() -> None:
    closed = transition(opened(), steering.abort(opened()), OPENED)
    assert decided(closed, verdict("promote")).action == "hold"


def test_a_share_set_by_hand_goes_on_up_the_ramp_from_there() -> None:
    moved = transition(opened(), steering.set_share(opened(), 0.15), OPENED + timedelta(days=2))
    assert (moved.share, moved.step, moved.step_started_at) == (0.15, 1, OPENED + timedelta(days=2))
    assert decided(moved, verdict()).share == 0.25


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_that_compares_nothing_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match="compares nothing"):
        steering.set_share(opened(), share)


def test_pause_keeps_the_share_and_resume_goes_on() -> None:
    paused = transition(opened(share=0.25), steering.pause(opened()), OPENED)
    assert (paused.status, paused.share) == ("paused", 0.25)
    assert transition(paused, steering.resume(paused), OPENED).status == "running"


def test_an_undecided_rollout_makes_way_for_the_next_month_and_names_it() -> None:
    closed = transition(opened(), make_way(opened(), verdict(), "2025-07"), OPENED)
    assert (closed.status, closed.share, closed.closed_at) == ("inconclusive", 0.0, OPENED)
    assert closed.reason == "superseded by the challenger of 2025-07; because"


def test_a_rollout_half_way_to_a_promotion_or_paused_by_hand_lets_the_next_month_wait() -> None:
    assert make_way(opened(), verdict(e_promote=6.3), "2025-07").action == "inconclusive"
    for rollout, seen in ((opened(), verdict(e_promote=6.4)), (opened(status="paused"), verdict())):
        decision = make_way(rollout, seen, "2025-07")
        assert (decision.action, decision.share) == ("hold", rollout.share)
        assert "the challenger of 2025-07 waits" in decision.reason


@pytest.mark.parametrize("status", ["promoted", "aborted", "inconclusive"])
@pytest.mark.parametrize("control", HAND)
def test_nothing_can_be_done_to_a_closed_rollout(status: Any, control: Callable[[Rollout], Decision]) -> None:
    with pytest.raises(Conflict, match=f"rollout june: it is {status}"):
        control(opened(status=status))


def test_what_is_paused_cannot_be_paused_and_what_runs_cannot_be_resumed() -> None:
    with pytest.raises(Conflict, match="cannot pause"):
        steering.pause(opened(status="paused"))
    with pytest.raises(Conflict, match="cannot resume"):
        steering.resume(opened())


@pytest.mark.parametrize("action", ["advance", "share", "pause", "resume", "promote", "abort", "inconclusive"])
def test_a_decision_that_comes_too_late_conflicts_instead_of_reopening(action: Any) -> None:
    with pytest.raises(Conflict):
        transition(opened(status="aborted"), Decision(action, 0.5, "late"), OPENED)


def test_an_automatic_step_does_not_move_a_rollout_that_was_paused_meanwhile() -> None:
    with pytest.raises(Conflict, match="paused"):
        transition(opened(status="paused"), Decision("advance", 0.5, "late"), OPENED)


@pytest.mark.parametrize("days", [{"feedback_days": float("inf")}, {"max_days": 1e9}, {"feedback_days": 0}])
def test_days_that_no_calendar_has_are_refused(days: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="at most 36500"):
        Policy(**days)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at most 36500"):
        Limits(days=float("inf"))


@pytest.mark.parametrize("shares", [(), (0.1, 0.1), (0.5, 0.25), (0.0, 0.5), (0.5, 1.0)])
def test_a_ramp_that_does_not_rise_within_zero_and_one_is_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="shares"):
        Policy(shares=shares)


def test_a_version_is_not_rolled_out_against_itself() -> None:
    with pytest.raises(BadInput, match="itself"):
        new_rollout("june", "2025-06", "1", "1", "salt", POLICY, OPENED)


@given(
    st.lists(
        st.tuples(st.sampled_from(["continue"] * 6 + ["promote", "abort"]), st.floats(0, 60), st.integers(0, 20)),
        max_size=30,
    )
)
def test_left_to_itself_the_share_only_rises_until_it_closes(looks: list[tuple[str, float, int]]) -> None:
    rollout, shares = opened(), [0.05]
    for day, (outcome, e_abort, rewards) in enumerate(looks):
        now = OPENED + timedelta(days=day)
        rollout = transition(rollout, decide(rollout, verdict(outcome, e_abort), POLICY, now, rewards), now)
        if not rollout.open:
            break
        shares.append(rollout.share)
    assert shares == sorted(shares)
    assert set(shares) <= set(POLICY.shares)
    assert rollout.open == (rollout.closed_at is None)


STOP = Watch(guardrails=(Guarded("errors", True, 0.4, 0.01, 999.0, "errors 40.0%"),))
ALARM = Watch(signals=(Signal("sample ratio", True, "40 of 100 units"),))


def watched(rollout: Rollout, seen: Standing, watch: Watch) -> Decision:
    return decide(rollout, seen, POLICY, OPENED + timedelta(days=1), 100, watch)


def test_a_crossed_guardrail_aborts_whatever_the_rewards_say_and_a_paused_rollout_too() -> None:
    for rollout in (opened(), opened(status="paused")):
        decision = watched(rollout, verdict("promote"), STOP)
        assert (decision.action, decision.share) == ("abort", 0.0)
        assert decision.reason.startswith("guardrail crossed: errors 40.0%")


def test_an_alarm_pauses_before_a_verdict_is_acted_on_and_can_do_nothing_else() -> None:
    for seen in (verdict(), verdict("promote"), verdict("abort")):
        decision = watched(opened(share=0.25), seen, ALARM)
        assert (decision.action, decision.share) == ("pause", 0.25)
        assert decision.reason.startswith("sample ratio alarm: 40 of 100 units")
    assert watched(opened(status="paused"), verdict("promote"), ALARM).action == "hold"


def test_with_its_budget_of_rewards_spent_the_champion_stays() -> None:
    spent = replace(POLICY, max_rewards=12)
    for seen, action in ((verdict(), "inconclusive"), (verdict("promote"), "promote")):
        assert decide(opened(), seen, spent, OPENED, 100).action == action
    assert decide(opened(), verdict(), replace(POLICY, max_rewards=13), OPENED, 100).action == "advance"


def test_a_promoted_version_gives_way_again_in_its_first_days_and_only_for_a_guardrail() -> None:
    promoted = transition(opened(), steering.promote(opened()), OPENED)
    assert guard(promoted, Watch(), POLICY, OPENED).action == "hold"
    decision = guard(promoted, STOP, POLICY, OPENED + timedelta(days=6))
    assert decision.action == "revert"
    reverted = transition(promoted, decision, OPENED + timedelta(days=6))
    assert (reverted.status, reverted.share, reverted.open) == ("reverted", 0.0, False)
    assert guard(promoted, STOP, POLICY, OPENED + timedelta(days=8)).action == "hold"
    assert guard(reverted, STOP, POLICY, OPENED).action == "hold"


@pytest.mark.parametrize("status", ["running", "paused", "aborted", "inconclusive", "reverted"])
def test_only_a_promotion_can_be_gone_back_from(status: Any) -> None:
    with pytest.raises(Conflict, match="cannot revert"):
        transition(opened(status=status), Decision("revert", 0.0, "late"), OPENED)
    with pytest.raises(Conflict, match="cannot revert"):
        steering.revert(opened(status=status))


def test_by_hand_a_promotion_is_gone_back_from_at_any_time() -> None:
    promoted = transition(opened(), steering.promote(opened()), OPENED)
    late = transition(promoted, steering.revert(promoted, "odd answers"), OPENED + timedelta(days=300))
    assert (late.status, late.serves, late.reason) == ("reverted", "1", "odd answers")


@pytest.mark.parametrize("wrong", [{"floor": 0.0}, {"floor": 0.6}, {"least_move": -0.1}, {"least_move": 1.0}])
def test_a_floor_or_a_least_move_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="rollout floor"):
        Policy(**wrong)  # type: ignore[arg-type]


def test_a_cap_below_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="unnamed_per_key is a count"):
        Policy(unnamed_per_key=-1)
