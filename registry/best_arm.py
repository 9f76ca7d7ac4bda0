"""Best of several: which share each of several challengers should have, which are out, and whether one has won. Pure.

**Shares** are top-two Thompson sampling's (Russo 2020): half of the draws go to the arm that is probably best, the
other half to the one that is probably best if it is not, so that traffic goes where the question is still open. No
arm falls below a floor while it is in, because a share near 0 makes each of its rewards weigh so much that evidence
becomes slow and wild. The probabilities are of Beta posteriors and serve to share traffic alone: they decide nothing.

**Decisions** are `Evidence`'s, always valid whatever the shares did: one test for each pair of arms, alpha divided by
the number of pairs, so the chance that *any* arm is ever wrongly dropped or promoted is at most alpha. An arm that is
proved worse than another is out; the last challenger in, proved better than the champion, is promoted; with no
challenger in, the champion stays. A crossed guardrail (`guardrails.against_champion`) puts an arm out by `drop`.

Where it fails. Two challengers that are equally good are never told apart: the budget ends it, and the champion
stays; take the one you like by hand. Shares that fall move units back to other arms, so a person may meet three
versions in a week; the ramp never does that. With one challenger it shares half and half from the start: use the
ramp. The ledger holds one challenger at a time, so this is a policy to simulate and to judge, and does not yet steer
the gateway.

- Russo (2020), Simple Bayesian algorithms for best-arm identification, Operations Research.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Literal

import numpy as np

from evermoe.errors import BadInput
from registry.assignment import CHALLENGER, CHAMPION
from registry.evidence import Evidence

DRAWS = 4000  # of the posterior
LEADER = 0.5  # of the draws go to the arm that is probably best


@dataclass(frozen=True)
class Standing:
    """Which challengers are in, who is out and why, and what follows."""

    decision: Literal["promote", "abort", "continue"]
    arm: str | None
    """The challenger to promote."""
    inside: tuple[str, ...]
    out: Mapping[str, str]


class BestArm:
    """Several challengers against one champion, and each against each."""

    def __init__(self, challengers: Sequence[str], alpha: float = 0.05, floor: float = 0.05) -> None:
        if len(set(challengers)) != len(challengers) or not challengers or CHAMPION in challengers:
            raise BadInput("name each challenger once, one or more, and none of them champion")
        if not 0.0 < floor <= 1.0 / (len(challengers) + 1):
            raise BadInput(f"a floor of {floor:g} is too much for {len(challengers)} challengers and the champion")
        self.arms = (CHAMPION, *challengers)
        self.floor = floor
        pairs = list(combinations(self.arms, 2))
        self._evidence = {pair: Evidence(alpha / len(pairs)) for pair in pairs}
        self._counts = dict.fromkeys(self.arms, 0)
        self._sums = dict.fromkeys(self.arms, 0.0)
        self._out: dict[str, str] = {}
        self._units: set[str] = set()

    def observe(self, arm: str, reward: float, shares: Mapping[str, float], unit: str, at: datetime) -> None:
        """Take the reward of a unit that was drawn at these shares, the champion's among them. A unit counts once."""
        if arm not in self.arms or unit in self._units:
            return
        for (one, other), evidence in self._evidence.items():
            if arm in (one, other):  # of units that meet either, these are the chances
                propensity = shares[arm] / (shares[one] + shares[other])
                evidence.observe(CHAMPION if arm == one else CHALLENGER, reward, propensity, unit, at)
        self._units.add(unit)
        self._counts[arm] += 1
        self._sums[arm] += reward

    def drop(self, arm: str, reason: str) -> None:
        """Put a challenger out, for good: a guardrail was crossed, or a person says so."""
        if arm == CHAMPION or arm not in self.arms:
            raise BadInput(f"{arm!r} is no challenger here")
        self._out.setdefault(arm, reason)

    def standing(self, now: datetime) -> Standing:
        """What is proved by now. Whoever is out stays out."""
        for (one, other), evidence in self._evidence.items():
            if {one, other} & self._out.keys():
                continue
            verdict = evidence.verdict(now)
            worse = {"promote": one, "abort": other}.get(verdict.decision)
            if worse is not None and worse != CHAMPION:
                self._out[worse] = f"worse than {other if worse == one else one}: {verdict.reason}"
        inside = tuple(arm for arm in self.arms if arm != CHAMPION and arm not in self._out)
        if not inside:
            return Standing("abort", None, inside, dict(self._out))
        if len(inside) == 1 and self._evidence[CHAMPION, inside[0]].verdict(now).decision == "promote":
            return Standing("promote", inside[0], inside, dict(self._out))
        return Standing("continue", None, inside, dict(self._out))

    def shares(self, generator: np.random.Generator) -> dict[str, float]:
        """What each arm should have next; they add up to 1, and who is out has 0."""
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
