"""What the rewards of all arms prove together: who is out, whether one has won, and which share each should have. Pure.

The one rule of proof for every rollout; a ramp is the case of one challenger, which has one pair and all of alpha.

**Decisions** are `Evidence`'s, always valid whatever the shares did: one test for each pair of arms, alpha divided by
the number of pairs, so the chance that *any* arm is ever wrongly dropped or promoted is at most alpha. An arm that is
proved worse than another is out; the last challenger in, proved better than the champion, is promoted; with no
challenger in, the champion stays. A crossed guardrail (`guardrails.against_champion`), or a person, puts an arm out by
`drop`; who is out is the ledger's to remember.

**Shares** of several are top-two Thompson sampling's (Russo 2020): half of the draws go to the arm that is probably
best, the other half to the one that is probably best if it is not, so that traffic goes where the question is still
open. No arm falls below a floor while it is in, because a share near 0 makes each of its rewards weigh so much that
evidence becomes slow and wild. The probabilities are of Beta posteriors and serve to share traffic alone: they decide
nothing. How fast a rollout may follow them is `deciding.decide`'s.

Where it fails. Two challengers that are equally good are never told apart: the budget ends it, and the champion
stays; take the one you like by hand. Shares that fall move units back to other arms, so a person may meet three
versions in a week; the ramp never does that.

- Russo (2020), Simple Bayesian algorithms for best-arm identification, Operations Research.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import combinations
from typing import Literal

import numpy as np

from evermoe.errors import BadInput
from registry.assignment import CHALLENGER, CHAMPION, shares_at
from registry.evidence import Evidence, Rewarded, Verdict

DRAWS = 4000  # of the posterior
LEADER = 0.5  # of the draws go to the arm that is probably best


@dataclass(frozen=True)
class Standing:
    """What is proved by now, and what follows. Arms are named as in the event log."""

    decision: Literal["promote", "abort", "continue"]
    arm: str | None
    """The challenger to promote."""
    inside: tuple[str, ...]
    out: Mapping[str, str]
    """Who is out, and why."""
    verdicts: Mapping[str, Verdict]
    """Each challenger against the champion."""
    rewards: int
    """Counted, of all arms."""
    wanted: Mapping[str, float] = field(default_factory=dict)
    """The shares that all arms should have by now, the champion's among them; of several challengers alone."""

    @classmethod
    def of(cls, verdict: Verdict) -> Standing:
        """That of a lone challenger, which its verdict decides."""
        worse = verdict.decision == "abort"
        return cls(
            decision=verdict.decision,
            arm=CHALLENGER if verdict.decision == "promote" else None,
            inside=() if worse else (CHALLENGER,),
            out={CHALLENGER: verdict.reason} if worse else {},
            verdicts={CHALLENGER: verdict},
            rewards=sum(verdict.rewards.values()),
        )

    def verdict(self, arm: str | None = None) -> Verdict:
        """An arm's verdict; without a name the lone challenger's, or that of the first who is in, or else of the first."""
        return self.verdicts[arm or next(iter(self.inside), None) or next(iter(self.verdicts))]


class BestArm:
    """Challengers against one champion, and each against each. `arms` are the challengers' names in the event log."""

    def __init__(
        self,
        challengers: Sequence[str],
        alpha: float = 0.05,
        floor: float = 0.05,
        called: Mapping[str, str] | None = None,
    ) -> None:
        """`called` are the names of arms in reasons, where they are others."""
        if len(set(challengers)) != len(challengers) or not challengers or CHAMPION in challengers:
            raise BadInput("name each challenger once, one or more, and none of them champion")
        check_floor(floor, len(challengers))
        self.arms = (CHAMPION, *challengers)
        self.floor = floor
        pairs = list(combinations(self.arms, 2))
        self._called = {arm: arm for arm in self.arms} | dict(called or {})
        self._evidence = {
            (one, other): Evidence(alpha / len(pairs), (self._called[one], self._called[other])) for one, other in pairs
        }
        self._counts = dict.fromkeys(self.arms, 0)
        self._sums = dict.fromkeys(self.arms, 0.0)
        self._agreed = 0
        self._out: dict[str, str] = {}
        self._units: set[str] = set()

    def observe(self, arm: str, reward: float, shares: Mapping[str, float], unit: str, at: datetime) -> bool:
        """Take the reward of a unit that was drawn at these shares, the champion's among them; whether it counts. A unit
        counts once."""
        if arm not in self.arms or unit in self._units:
            return False
        counted = False
        for (one, other), evidence in self._evidence.items():
            if arm in (one, other):  # of units that meet either, these are the chances
                propensity = shares[arm] / (shares[one] + shares[other])
                counted |= evidence.observe(CHAMPION if arm == one else CHALLENGER, reward, propensity, unit, at)
        if counted:
            self._units.add(unit)
            self._counts[arm] += 1
            self._sums[arm] += reward
        return counted

    def take(self, one: Rewarded) -> bool:
        """Take a reward as the event log has it, in order of arrival; whether it counts.

        A reward for an answer that both arms give is left out: there the arms are known to be equal, so it is noise, and a
        small lift over all requests is a large one where they differ. What both would answer does not depend on which one
        did, so the test stays valid; it now speaks of the requests on which the arms differ, and the sign of the lift is the
        same. Source: triggered analysis, Kohavi, Tang, Xu, Trustworthy Online Controlled Experiments (2020), chapter 20.
        """
        if one.agreed:
            self._agreed += 1
            return False
        if one.arm not in self.arms:
            return False
        return self.observe(one.arm, one.reward, shares_at(one.arm, one.propensity, one.shares), one.unit, one.at)

    def drop(self, arm: str, reason: str) -> None:
        """Put a challenger out, for good: a guardrail was crossed, or a person says so."""
        if arm == CHAMPION or arm not in self.arms:
            raise BadInput(f"{arm!r} is no challenger here")
        self._out.setdefault(arm, reason)

    def standing(self, now: datetime) -> Standing:
        """What is proved by now. Whoever is out stays out."""
        verdicts = {pair: self._told(evidence.verdict(now)) for pair, evidence in self._evidence.items()}
        for (one, other), verdict in verdicts.items():
            if {one, other} & self._out.keys():
                continue
            worse = {"promote": one, "abort": other}.get(verdict.decision)
            if worse is not None and worse != CHAMPION:
                against = "" if len(self.arms) == 2 else f"worse than {self._called[other if worse == one else one]}: "
                self._out[worse] = against + verdict.reason
        inside = tuple(arm for arm in self.arms if arm != CHAMPION and arm not in self._out)
        won = inside[0] if len(inside) == 1 and verdicts[CHAMPION, inside[0]].decision == "promote" else None
        return Standing(
            decision="promote" if won else "continue" if inside else "abort",
            arm=won,
            inside=inside,
            out=dict(self._out),
            verdicts={arm: verdicts[CHAMPION, arm] for arm in self.arms[1:]},
            rewards=sum(self._counts.values()),
        )

    def verdicts(self, now: datetime) -> dict[str, Verdict]:
        """Each challenger against the champion, by now."""
        return {arm: self._told(self._evidence[CHAMPION, arm].verdict(now)) for arm in self.arms[1:]}

    def _told(self, verdict: Verdict) -> Verdict:
        """A verdict that says what was left out too."""
        if not self._agreed:
            return verdict
        reason = f"{verdict.reason}; {self._agreed} more where both answer alike"
        return replace(verdict, agreed=self._agreed, reason=reason)

    def shares(self, generator: np.random.Generator) -> dict[str, float]:
        """The share that each arm should have from now on: they add up to 1, and who is out has 0."""
        inside = [arm for arm in self.arms if arm not in self._out]
        if len(inside) == 1:
            return {arm: float(arm == CHAMPION) for arm in self.arms}
        sums = np.array([self._sums[arm] for arm in inside])
        counts = np.array([self._counts[arm] for arm in inside])
        drawn = generator.beta(1.0 + sums, 1.0 + counts - sums, (DRAWS, len(inside)))
        best = np.bincount(drawn.argmax(axis=1), minlength=len(inside)) / DRAWS
        best = np.maximum(best, 1.0 / DRAWS) / np.maximum(best, 1.0 / DRAWS).sum()
        after = best[:, None] * best[None, :] / (1.0 - best[:, None])  # row: the first, column: the second
        np.fill_diagonal(after, 0.0)
        wanted = LEADER * best + (1.0 - LEADER) * after.sum(axis=0)
        floored = self.floor + (1.0 - self.floor * len(inside)) * wanted / wanted.sum()
        found = dict(zip(inside, floored.tolist(), strict=True))
        return {arm: found.get(arm, 0.0) for arm in self.arms}


def check_floor(floor: float, challengers: int) -> None:
    """Raise `BadInput` where so many challengers and the champion cannot all have this share."""
    if not 0.0 < floor <= 1.0 / (challengers + 1):
        raise BadInput(f"a floor of {floor:g} is too much for {challengers} challengers and the champion")
