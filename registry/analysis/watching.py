"""What is to be seen of a version beside its rewards: the event log asked, the guardrails and signals judged.

Changes nothing; what follows from it is `deciding.decide`'s and `deciding.guard`'s.
"""

from __future__ import annotations

from datetime import datetime

from monitoring.events import EventLog
from registry.deciding import Watch
from registry.rollout import Policy, Rollout
from registry.rules.guardrails import against_champion, against_past
from registry.rules.signals import crossed, sample_ratio


def watch(events: EventLog, on_trial: Rollout, policy: Policy, now: datetime) -> Watch:
    """An open rollout: each challenger's guardrails against the champion, and whether units meet the arms as asked for."""
    limits = policy.limits
    met = [one for one in events.first_requests(on_trial.id, limits.slow_ms, limits.refusals) if one.at <= now]
    guarded = tuple(found for one in on_trial.inside for found in against_champion(met, limits, one.arm))
    return Watch(guarded, (sample_ratio(met), crossed(events.units(on_trial.id))))


def watch_promoted(events: EventLog, promoted: Rollout, policy: Policy, now: datetime) -> Watch:
    """A promoted version: its guardrails since then, against what the champion before it did while the rollout was open."""
    assert promoted.closed_at is not None
    limits, since, seen = policy.limits, promoted.closed_at, events.first_requests_of_version
    before = seen(promoted.champion, promoted.opened_at, since, limits.slow_ms, limits.refusals)
    return Watch(against_past(seen(promoted.challenger, since, now, limits.slow_ms, limits.refusals), before, limits))
