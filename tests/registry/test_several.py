"""Several challengers in one rollout: the same machine as for one, which drops, shifts and promotes on proof alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evermoe.errors import BadInput, Conflict
from registry.actions import steering
from registry.analysis.outlook import outlook, weighed
from registry.assignment import assign
from registry.deciding import Watch, decide
from registry.evidence import Evidence, Verdict
from registry.rollout import Decision, Rollout, new_rollout, transition
from registry.rules.best_arm import Standing
from registry.rules.guardrails import Guarded
from tests.registry.worlds import OPENED, POLICY, World, opened

ARMS = ("challenger:5", "challenger:6", "challenger:7")


def standing(decision: Any = "continue", out: dict[str, str] | None = None, **changes: Any) -> Standing:
    """A proof of nothing, but for what is given."""
    verdict: Verdict = replace(Evidence(0.05 / 6).verdict(OPENED), reason="because")
    inside = tuple(arm for arm in ARMS if arm not in (out or {}))
    wanted = dict.fromkeys(("champion", *ARMS), 0.25)
    known = Standing(decision, None, inside, out or {}, dict.fromkeys(ARMS, verdict), 0, wanted)
    return replace(known, **changes)


def shares_of(rollout: Rollout) -> list[float]:
    return [round(one.share, 4) for one in rollout.challengers]


def after(rollout: Rollout, proof: Standing, rewards: int = 100, watch: Watch = Watch()) -> tuple[Decision, Rollout]:
    decision = decide(rollout, proof, POLICY, OPENED + timedelta(days=1), rewards, watch)
    return decision, transition(rollout, decision, OPENED + timedelta(days=1))


def test_each_begins_at_the_floor() -> None:
    rollout = opened()
    assert (shares_of(rollout), rollout.share, rollout.challenger) == ([0.05] * 3, pytest.approx(0.15), "5")
    with pytest.raises(BadInput, match="name one version, or several different ones"):
        new_rollout("june", "2025-06", "1", ("5", "5"), "salt", POLICY, OPENED)
    with pytest.raises(BadInput, match=r"a floor of 0.05 is too much for 20 challengers"):
        new_rollout("june", "2025-06", "1", [str(n) for n in range(2, 22)], "salt", POLICY, OPENED)


def test_a_floor_that_was_raised_too_far_since_is_an_even_part() -> None:
    rollout, policy = opened(), replace(POLICY, floor=0.4)
    assert weighed(rollout, [], policy, OPENED).standing.decision == "continue"
    decision = decide(rollout, standing(), policy, OPENED + timedelta(days=1), 100, Watch())
    assert decision.shares == pytest.approx(dict.fromkeys(ARMS, 0.25))


def test_shares_climb_a_step_of_the_ramp_at_a_time_and_beyond_its_top_go_where_they_are_wanted() -> None:
    rollout, proof = opened(), standing()
    decision, rollout = after(rollout, proof)
    assert (decision.action, decision.share) == ("shift", pytest.approx(0.25))
    assert shares_of(rollout) == [0.0833] * 3
    _, rollout = after(rollout, proof)
    assert rollout.share == pytest.approx(0.5)
    _, rollout = after(rollout, proof)
    assert shares_of(rollout) == [0.25] * 3
    hoped = standing(wanted={"champion": 0.05, ARMS[0]: 0.05, ARMS[1]: 0.05, ARMS[2]: 0.85})
    _, rollout = after(rollout, hoped)
    assert shares_of(rollout) == [0.05, 0.05, 0.85]


def test_nothing_moves_before_enough_rewards_or_by_less_than_is_worth_a_move() -> None:
    decision, rollout = after(opened(), standing(), rewards=23)
    assert (decision.cause, decision.reason.startswith("23 of 24 rewards"), rollout) == ("few", True, opened())
    level = transition(opened(), steering.set_share(opened(), 0.25, version="5"), OPENED)
    for version in ("6", "7"):
        level = transition(level, steering.set_share(level, 0.25, version=version), OPENED)
    hardly = standing(wanted={"champion": 0.21, ARMS[0]: 0.29, ARMS[1]: 0.25, ARMS[2]: 0.25})
    decision, _ = after(level, hardly)
    assert (decision.action, decision.cause) == ("hold", "settled")
    assert decision.reason.startswith("4.0% of the units would move, less than 5%")


def test_who_is_proved_worse_is_out_for_good_and_its_units_go_to_the_champion() -> None:
    decision, rollout = after(opened(), standing(out={ARMS[1]: "worse than champion: because"}))
    assert decision.action == "drop"
    assert decision.reason == "version 6 is out: worse than champion: because"
    assert (shares_of(rollout), decision.share) == ([0.05, 0.0, 0.05], pytest.approx(0.1))
    assert [one.out for one in rollout.challengers] == ["", "worse than champion: because", ""]
    _, later = after(rollout, standing(out={ARMS[1]: "worse"}, wanted={"champion": 0.3, ARMS[0]: 0.4, ARMS[2]: 0.3}))
    assert later.challengers[1].out == "worse than champion: because"
    for number in range(2000):
        before, now = (assign("salt", f"u{number}", one.shares)[0] for one in (opened(), rollout))
        assert now == ("champion" if before == ARMS[1] else before)


def test_a_crossed_guardrail_puts_out_its_own_version_alone_and_in_a_paused_rollout_too() -> None:
    stop = Watch(guardrails=(Guarded("errors", True, 0.4, 0.01, 999.0, "errors 40.0%", ARMS[0]),))
    for status in ("running", "paused"):
        decision, rollout = after(opened(status=status), standing("promote", arm=ARMS[1]), watch=stop)
        assert (decision.action, decision.cause, rollout.status) == ("drop", "guardrail", status)
        assert rollout.challengers[0].out == "guardrail crossed: errors 40.0%; because"
        again, _ = after(rollout, standing(), watch=stop)
        assert again.action != "drop"


def test_with_the_last_one_out_the_trial_is_aborted_and_says_why_of_each() -> None:
    decision, rollout = after(opened(), standing("abort", dict.fromkeys(ARMS, "worse")))
    assert (decision.action, rollout.status, rollout.share) == ("abort", "aborted", 0.0)
    assert all(one.out == "worse" for one in rollout.challengers)


def test_the_winner_is_promoted_and_the_others_are_out() -> None:
    decision, rollout = after(opened(), standing("promote", {ARMS[0]: "w", ARMS[1]: "w"}, arm=ARMS[2]))
    assert (decision.action, rollout.status, rollout.challenger) == ("promote", "promoted", "7")
    assert shares_of(rollout) == [0.0, 0.0, 0.05]
    back = transition(rollout, Decision("revert", 0.0, "crossed"), OPENED)
    assert (back.status, back.share, back.challenger) == ("reverted", 0.0, "7")


def test_by_hand_a_version_is_named_where_several_are_in() -> None:
    rollout = opened()
    for steer in (steering.promote, lambda one: steering.set_share(one, 0.2)):
        with pytest.raises(BadInput, match=r"3 versions are on trial; say wh.*: 5, 6 or 7"):
            steer(rollout)
    with pytest.raises(BadInput, match="version 9 is not on trial in rollout june; name 5, 6 or 7"):
        steering.promote(rollout, version="9")
    with pytest.raises(BadInput, match="leave the champion some"):
        steering.set_share(rollout, 0.9, version="6")
    moved = transition(rollout, steering.set_share(rollout, 0.2, version="6"), OPENED)
    assert shares_of(moved) == [0.05, 0.2, 0.05]
    without = transition(moved, steering.abort(moved, "odd answers", "6"), OPENED)
    assert (without.status, without.challengers[1].out) == ("running", "odd answers")
    with pytest.raises(BadInput, match="version 6 is not on trial"):
        steering.promote(without, version="6")
    won = transition(without, steering.promote(without, "reviewed", "7"), OPENED)
    assert (won.challenger, won.challengers[0].out) == ("7", "version 7 was promoted")
    assert transition(without, steering.abort(without, "all wrong"), OPENED).status == "aborted"
    alone = transition(without, steering.abort(without, "wrong too", "5"), OPENED)
    assert steering.promote(alone).action == "promote"
    assert transition(alone, steering.abort(alone, "and the last", "7"), OPENED).status == "aborted"


def test_the_budget_ends_it_and_the_champion_stays() -> None:
    spent = standing(rewards=POLICY.max_rewards)
    decision, rollout = after(opened(), spent)
    assert (decision.action, rollout.status, rollout.share) == ("inconclusive", "inconclusive", 0.0)


moves = st.tuples(
    st.sampled_from(["look", "share", "abort", "promote", "pause", "resume", "crossed"]),
    st.sampled_from(["5", "6", "7"]),
    st.floats(0.01, 0.99),
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    st.sets(st.sampled_from(ARMS)),
)


def decided(rollout: Rollout, move: tuple[str, str, float], proof: Standing) -> Decision:
    """What a person, or the next look, makes of a rollout."""
    action, version, share = move
    by_hand: dict[str, Any] = {"abort": steering.abort, "promote": steering.promote}
    if action in by_hand:
        return by_hand[action](rollout, "r", version)  # type: ignore[no-any-return]
    if action == "share":
        return steering.set_share(rollout, share, "r", version)
    if action in ("pause", "resume"):
        return steering.pause(rollout) if action == "pause" else steering.resume(rollout)
    stop = Guarded("errors", action == "crossed", 0.4, 0.01, 999.0, "errors", f"challenger:{version}")
    return decide(rollout, proof, POLICY, OPENED, 100, Watch(guardrails=(stop,)))


@given(st.lists(moves, max_size=12))
def test_whatever_happens_shares_fit_who_is_out_stays_out_and_every_change_is_a_revision(steps: list[Any]) -> None:
    rollout = opened()
    for action, version, share, hopes, worse in steps:
        before, out = rollout, {one.arm: one.out for one in rollout.challengers if one.out}
        gone = dict.fromkeys(worse, "worse") | out
        hoped = {arm: hope * (arm not in gone) for arm, hope in zip(("champion", *ARMS), hopes, strict=True)}
        wanted = {arm: hope / sum(hoped.values()) for arm, hope in hoped.items()}
        proof = standing("continue" if len(gone) < 3 else "abort", gone, wanted=wanted)
        try:
            decision = decided(rollout, (action, version, share), proof)
            rollout = transition(rollout, decision, OPENED)
        except (BadInput, Conflict):
            continue
        assert (rollout.revision == before.revision) == (rollout is before)
        assert {arm: one.out for arm in out for one in rollout.challengers if one.arm == arm} == out
        assert all(one.share == 0.0 for one in rollout.challengers if one.out)
        assert 0.0 <= rollout.share < 1.0
        if rollout.open:
            assert rollout.inside
            assert all(one.share > 0.0 for one in rollout.inside)
            assert assign(rollout.salt, "ann", rollout.shares)[1] > 0.0
        elif rollout.status == "promoted":
            assert len(rollout.inside) == 1
        else:
            assert rollout.share == 0.0


def test_a_clearly_better_version_is_promoted_and_met_more_units_than_any_other_by_then() -> None:
    for seed in range(3):
        rollout, seen = World({"1": 0.4, "5": 0.4, "6": 0.85, "7": 0.3}, seed).live(4000)
        assert (rollout.status, rollout.challenger) == ("promoted", "6")
        met = [one.arm for one in seen[len(seen) // 2 :]]
        assert met.count("challenger:6") == max(met.count(arm) for arm in ARMS)


def test_of_equal_versions_none_is_dropped_or_promoted_more_often_than_alpha() -> None:
    wrong = 0
    for seed in range(40):
        rollout, _ = World(dict.fromkeys(("1", "5", "6", "7"), 0.6), seed, every=80).live(480)
        wrong += not rollout.open or any(one.out for one in rollout.challengers)
    assert wrong <= 2  # alpha of 40


def test_the_same_log_and_ledger_give_the_same_next_step_whoever_looks() -> None:
    rollout, seen = World({"1": 0.5, "5": 0.5, "6": 0.6, "7": 0.4}, 1).live(400)
    now = OPENED + timedelta(days=2)
    first, second = (outlook(rollout, weighed(rollout, list(seen), POLICY, now), POLICY, now) for _ in range(2))
    assert first == second
    assert first.standing.wanted
