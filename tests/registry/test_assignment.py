"""Assignment is sticky, honest about its propensity, and only ever adds units to a challenger whose share rises."""

from __future__ import annotations

from itertools import pairwise
from timeit import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evermoe.errors import BadInput
from registry.assignment import Apart, assign, point, stretches

share = st.floats(0.0, 1.0, allow_nan=False)
salts = st.text(max_size=20)
units = st.text(max_size=40)


def arms_of(salt: str, shares: dict[str, float], count: int = 20_000) -> list[str]:
    return [assign(salt, f"unit-{i}", shares)[0] for i in range(count)]


@given(salts, units, share)
def test_the_same_unit_always_meets_the_same_arm_with_the_arms_own_share_as_propensity(
    salt: str, unit: str, s: float
) -> None:
    arm, propensity = assign(salt, unit, {"challenger": s})
    assert (arm, propensity) == assign(salt, unit, {"champion": 1.0 - s, "challenger": s})
    assert propensity == pytest.approx(s if arm == "challenger" else 1.0 - s)
    assert propensity > 0


@given(salts, units, share, share)
def test_no_unit_leaves_the_challenger_while_its_share_only_rises(salt: str, unit: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    if assign(salt, unit, {"challenger": low})[0] == "challenger":
        assert assign(salt, unit, {"challenger": high})[0] == "challenger"


@given(units, share, share, share)
def test_of_two_challengers_the_one_that_rises_takes_units_from_the_champion_alone(
    u: str, a: float, b: float, more: float
) -> None:
    a, b = a * (1 - b), b
    raised = a + (1 - a - b) * more
    before, after = assign("s", u, {"a": a, "b": b})[0], assign("s", u, {"a": raised, "b": b})[0]
    assert after == before or (before, after) == ("champion", "a")


FOUR = ["a", "b", "c", "d"]


@given(units, st.lists(st.floats(0.0, 0.25), min_size=4, max_size=4), st.integers(0, 3), st.floats(0.0, 1.0))
def test_of_four_challengers_the_one_that_rises_takes_units_from_the_champion_alone(
    unit: str, start: list[float], riser: int, more: float
) -> None:
    shares = dict(zip(FOUR, start, strict=True))
    raised = shares | {FOUR[riser]: start[riser] + (1.0 - sum(start)) * more}
    before, after = assign("s", unit, shares)[0], assign("s", unit, raised)[0]
    assert after == before or (before, after) == ("champion", FOUR[riser])


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6).filter(lambda some: sum(some) > 0.1), st.floats(0.0, 1.0))
def test_every_arm_owns_as_much_of_the_line_as_its_share_and_no_two_the_same(some: list[float], part: float) -> None:
    shares = {f"arm {k}": part * one / sum(some) for k, one in enumerate(some)}
    owned = stretches(shares)
    for arm, share in shares.items():
        assert sum(end - start for start, end in owned[arm]) == pytest.approx(share, abs=1e-9)
    in_order = sorted(stretch for one in owned.values() for stretch in one)
    assert all(later[0] >= earlier[1] - 1e-12 for earlier, later in pairwise(in_order))


def test_an_arm_that_goes_sends_its_own_units_to_the_champion_and_moves_nobody_else() -> None:
    shares = {"a": 0.5, "b": 0.2, "c": 0.1}
    for before, after in zip(arms_of("s", shares), arms_of("s", shares | {"b": 0.0}), strict=True):
        assert after == ("champion" if before == "b" else before)


def test_one_of_three_may_have_nearly_all_units() -> None:
    arms = arms_of("s", {"a": 0.9, "b": 0.03, "c": 0.03})
    assert [arms.count(one) / len(arms) for one in "abc"] == pytest.approx([0.9, 0.03, 0.03], abs=0.02)


@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.25, 0.5])
def test_the_share_of_a_hundred_thousand_units_is_the_share_asked_for(wanted: float) -> None:
    arms = arms_of("2025-06", {"challenger": wanted}, 100_000)
    five_sigma = 5 * (wanted * (1 - wanted) / 100_000) ** 0.5
    assert arms.count("challenger") / 100_000 == pytest.approx(wanted, abs=five_sigma)


@pytest.mark.parametrize("champion", [{}, {"champion": 0.4}])
def test_several_challengers_each_get_their_share(champion: dict[str, float]) -> None:
    arms = arms_of("2025-06", {"a": 0.1, "b": 0.3, "c": 0.2, **champion}, 50_000)
    assert [arms.count(a) / 50_000 for a in ("a", "b", "c", "champion")] == pytest.approx(
        [0.1, 0.3, 0.2, 0.4], abs=0.01
    )


def test_two_salts_draw_independently() -> None:
    june, july = arms_of("2025-06", {"challenger": 0.5}), arms_of("2025-07", {"challenger": 0.5})
    both = sum(a == b == "challenger" for a, b in zip(june, july, strict=True)) / len(june)
    assert both == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / len(june)) ** 0.5)


def test_salt_and_unit_do_not_run_into_each_other() -> None:
    assert point("ab", "c") != point("a", "bc")


def test_a_unit_with_a_lone_surrogate_is_assigned_all_the_same() -> None:
    assert assign("s", "\ud800", {"challenger": 1.0}) == ("challenger", 1.0)


@pytest.mark.parametrize(
    "shares",
    [
        {"challenger": -0.1},
        {"challenger": 1.1},
        {"challenger": float("nan")},
        {"challenger": 0.6, "champion": 0.6},
        {"a": 0.6, "b": 0.6},
        {"a": 0.9, "b": 0.1, "c": 0.1},
    ],
)
def test_shares_that_cannot_be_kept_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="share"):
        assign("s", "u", shares)


def test_an_empty_mapping_sends_everyone_to_the_champion() -> None:
    assert assign("s", "u", {}) == ("champion", 1.0)


def test_an_assignment_costs_microseconds() -> None:
    seconds = (
        min(repeat(lambda: assign("2025-06-salt", "unit-12345", {"challenger": 0.25}), number=2000, repeat=20)) / 2000
    )
    assert seconds < 20e-6  # about 1.4 µs on one quiet core; the margin is for a busy one


@pytest.mark.slow
def test_a_million_units_meet_each_arm_as_asked_within_three_sigma_and_independently_of_another_rollout() -> None:
    units, wanted, other = 1_000_000, 0.25, 0.1
    names = [f"unit-{i}" for i in range(units)]
    june = [assign("2025-06", name, {"challenger": wanted})[0] == "challenger" for name in names]
    july = [assign("2025-07", name, {"challenger": other})[0] == "challenger" for name in names]
    both = sum(a and b for a, b in zip(june, july, strict=True))
    for met, share in ((sum(june), wanted), (sum(july), other), (both, wanted * other)):
        assert abs(met / units - share) <= 3 * (share * (1 - share) / units) ** 0.5


def test_units_apart_are_held_out_alike_from_every_rollout_or_named_with_their_arm() -> None:
    apart = Apart(0.1, {"ann": "challenger", "bob": "champion", "cat": "7"})
    out = sum(apart.arm(f"unit-{i}") == "champion" for i in range(20_000))
    assert out / 20_000 == pytest.approx(0.1, abs=5 * (0.09 / 20_000) ** 0.5)
    assert (apart.arm("ann"), apart.arm("bob"), apart.arm("cat")) == ("challenger", "champion", "7")
    assert all(Apart().arm(f"unit-{i}") is None for i in range(1000))


def test_who_is_held_out_says_nothing_of_who_meets_the_challenger() -> None:
    apart = Apart(0.5)
    arms = arms_of("2025-06", {"challenger": 0.5})
    both = sum(arm == "challenger" and apart.arm(f"unit-{i}") is not None for i, arm in enumerate(arms))
    assert both / len(arms) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / len(arms)) ** 0.5)


@pytest.mark.parametrize("wrong", [(-0.1, {}), (1.0, {}), (float("nan"), {}), (0.0, {"ann": "chalenger"})])
def test_units_apart_that_make_no_sense_are_refused(wrong: tuple[float, dict[str, str]]) -> None:
    with pytest.raises(BadInput, match="rollout"):
        Apart(*wrong)
