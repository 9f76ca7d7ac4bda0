"""What a version's trial came to, in plain words, and its place in the version's two pages.

A version has a page in Markdown, its description, and one in HTML, `card.html` of the run that registered it. Both are written
when it is made, with two places left open: its number, and the section on its trial. Knows rollouts and audits, and nothing of
what else the pages say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from registry.book.audit import AuditRow
from registry.rollout import Challenger, Rollout, listed

CARD = "card.html"
MOST_WORDS = 4900  # MLflow's databases keep 5000 characters of a description
HEADING = "## Its trial"
NUMBER = "evermoe reproduce VERSION"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~@])")
_SECTION = re.compile(r"^## Its trial$.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_HTML_SECTION = re.compile(r'<section id="trial">.*?</section>', re.DOTALL)


@dataclass(frozen=True)
class Told:
    """What became of a version: a sentence, what proves it as (name, fact), and the decisions that led there."""

    sentence: str
    facts: tuple[tuple[str, str], ...] = ()
    decisions: tuple[AuditRow, ...] = ()


def of_rollout(rollout: Rollout, history: Sequence[AuditRow], tried: Challenger | None = None) -> Told:
    """What a rollout's audit, the oldest row first, says of a challenger; without one, of the only one."""
    tried = tried or rollout.challengers[0]
    if not history:
        return Told(_sentence(rollout, tried))
    last = history[-1]
    evidence = last.evidence or next((row.evidence for row in reversed(history) if row.evidence), {})
    evidence = evidence.get("arms", {}).get(tried.version, evidence)
    facts = [("decided by", f"{last.by}, {last.at:%Y-%m-%d %H:%M}"), ("reason", tried.out or last.reason)]
    if rollout.several:
        facts.append(
            ("tried together with", listed(f"version {one.version}" for one in rollout.challengers if one is not tried))
        )
    if "e_promote" in evidence:
        facts += _proof(rollout, tried, evidence)
    return Told(_sentence(rollout, tried), (*facts, ("rollout", rollout.id)), tuple(history))


def in_markdown(told: Told, link: str = "") -> str:
    """The section for the description; `link` is where the rollout's run is."""
    lines = [HEADING, "", f"**{plain(told.sentence)}**", ""]
    lines += [f"- {name}: {plain(fact)}" for name, fact in told.facts]
    if link:
        lines.append(f"- evidence, look by look: [the rollout's run]({link})")
    return "\n".join(lines) + "\n\n"


def in_html(told: Told, run_id: str = "") -> str:
    """The section for the card."""
    facts = (*told.facts, *((("its run in MLflow", run_id),) if run_id else ()))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts)
    rows = "".join(
        f"<tr><td>{row.at:%Y-%m-%d %H:%M}</td><td>{escape(row.action)}</td><td>{shared(row)}</td><td>{escape(row.by)}</td>"
        f"<td>{escape(row.reason)}</td></tr>"
        for row in told.decisions
    )
    head = "<tr><th>when</th><th>what</th><th>share</th><th>by</th><th>why</th></tr>"
    table = f'<h3>Every decision</h3><div class="wide"><table>{head}{rows}</table></div>' if rows else ""
    return (
        f'<section id="trial"><h2>Its trial</h2><p class="said">{escape(told.sentence)}</p>'
        f"<dl>{listed}</dl>{table}</section>"
    )


def fill_words(words: str, section: str, number: str) -> str:
    """The description with its number and this section on the trial; a description without such a section gets it at its end."""
    words = words.replace(NUMBER, NUMBER.replace("VERSION", number))
    if not _SECTION.search(words):
        words = f"{words.rstrip()}\n\n{HEADING}\n"
    return _SECTION.sub(_literally(section), words, count=1).rstrip()[:MOST_WORDS]


def fill_card(page: str, section: str, number: str) -> str:
    """The card with its number and this section on the trial."""
    return _HTML_SECTION.sub(_literally(section), page, count=1).replace(NUMBER, NUMBER.replace("VERSION", number))


def shared(row: AuditRow) -> str:
    """The share, or of several challengers each one's: `5: 20%, 6: 35%`."""
    if len(row.shares) < 2:
        return f"{row.share:.0%}"
    return ", ".join(f"{version}: {share:.0%}" for version, share in row.shares.items())


def plain(text: str, most: int = 400) -> str:
    """Foreign text in one line of Markdown: nothing in it is a mark, a tag or a link."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    line = _MARKDOWN.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return line.replace("://", ":&sol;&sol;")  # which no renderer makes a link of


def _literally(section: str) -> Callable[[re.Match[str]], str]:
    """As it stands: a backslash in it is no group of the pattern."""
    return lambda _: section


def _sentence(rollout: Rollout, tried: Challenger) -> str:
    new, old = f"Version {tried.version}", f"version {rollout.champion}"
    if rollout.open and not tried.out:
        since = f"since {rollout.opened_at:%Y-%m-%d}{', paused' if rollout.status == 'paused' else ''}"
        return f"{new} is on trial against {old} {since}: {tried.share:.0%} of the units meet it."
    if tried.out:
        return f"{new} did not replace {old}: it was put out of the trial."
    when = f"{rollout.closed_at:%Y-%m-%d}" if rollout.closed_at else "no day"
    return {
        "promoted": f"{new} replaced {old} on {when}.",
        "aborted": f"{new} did not replace {old}: it was sent back on {when}.",
        "reverted": f"{new} replaced {old} and was sent back on {when}.",
        "inconclusive": f"{new} did not replace {old}: nothing was proved by {when}.",
    }[rollout.status]


def _proof(rollout: Rollout, tried: Challenger, evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a verdict, as `registry.actions.controls.evidence_of` keeps them."""
    counted = [
        f"version {version} {evidence.get(f'mean_{arm}', float('nan')):.3f} over {evidence.get(f'rewards_{arm}', 0)}"
        for arm, version in (("challenger", tried.version), ("champion", rollout.champion))
    ]
    agreed = f"; {evidence['agreed']} more where both answer alike" if evidence.get("agreed") else ""
    return [
        (
            "e-value",
            f"{evidence['e_promote']:,.2f} for it, {evidence['e_abort']:,.2f} against it; {evidence['threshold']:g} decides",
        ),
        (
            "lift",
            f"{evidence['lift']:+.3f}, in [{evidence['lift_low']:+.3f}, {evidence['lift_high']:+.3f}] at every look so far",
        ),
        ("mean reward", f"{', '.join(counted)}{agreed}"),
    ]
