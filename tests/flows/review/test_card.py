"""A model card says what changed in plain words, whole in HTML and short in Markdown, whatever users wrote."""

from __future__ import annotations

import dataclasses
import math
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.review.account import untried
from flows.review.card import Card, Source, figures_of, page, sentence, sources_of, words
from model import Evaluation, Gate
from model.compare import Change, Comparison, Confusion, Flip, Move
from model.gates import Contest
from registry.book.ledger import Ledger
from registry.rollout import Decision, Policy, new_rollout
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker import pages
from registry.tracker.versions import Version

EVIL = "</td><script>alert(1)</script> ![x](http://evil.example/x.png) <img src=x onerror=alert(2)>"
COMPARISON = Comparison(
    labels_gained=("web.page",),
    labels_lost=(),
    new=Change("the new month", 40, 0.5, 0.75, 12.0),
    past=(Change("2025-04", 60, 0.9, 0.7, 8.0), Change("2025-05", 60, 0.8, 0.79, 3.0)),
    labels=(Change("net.switch", 80, 0.9, 0.7, 9.0), Change("web.page", 20, 0.0, 0.9, 20.0)),
    appeared=(Confusion("net.switch", "web.page", 0, 4, ("trunk the menu",)),),
    went=(Confusion("web.page", "db.sql", 12, 0, ("fix the menu",)),),
    fixed=(Flip("fix the menu", "web.page", "db.sql", "web.page"),),
    broken=(Flip("trunk the port", "net.switch", "net.switch", "web.page"),),
    moves=(Move(1, 7, 0.01, 0.09),),
    load_variation=0.12,
    calibration_before=0.31,
    calibration_after=0.11,
    calibration_noise=0.05,
)
SOURCES = (
    Source("base", 800, 110, "0cc175b9c0f1b6a831c399e269772661", 2, "2024-01-02", "2025-05-30", False),
    Source("2025-06", 200, 30, "92eb5ffee6ae2fec3ad71c777531578f", 3, "2025-06-01", "2025-06-30", True),
)
GATES = (Gate("new month", True, 25.0, 0.0, "gains +25.0 points"), Gate("memory", False, 2.0, 1.2, "takes 2.00"))
CARD = Card("2025-06", "6", ("db.sql", "net.switch", "web.page"), "A copy of version 6.", SOURCES, GATES, COMPARISON)
LINKS = {"the whole card": "#/experiments/1/runs/2/artifacts/card.html"}


class Reader(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Card:
    """The card of a version whose users wrote nothing but attacks."""
    compared = dataclasses.replace(
        COMPARISON,
        labels_gained=(EVIL,),
        labels=(Change(EVIL, 80, 0.9, 0.2, 9.0),),
        appeared=(Confusion(EVIL, EVIL, 0, 4, (EVIL,)),),
        broken=(Flip(EVIL, EVIL, EVIL, EVIL),),
    )
    gate = Gate("slices", False, 0, 0, EVIL)
    return dataclasses.replace(CARD, labels=(EVIL,), lesson=EVIL, gates=(gate,), comparison=compared)


def test_a_sentence_says_what_changed_since_the_parent() -> None:
    said = sentence(COMPARISON)
    assert said.startswith(
        "It learned 1 new label. On 40 held-out examples of the new month it answers 50.0% → 75.0% right"
    )
    assert "(+25.0 ± 12.0 points): better." in said
    assert "Of 2 past months 0 got better and 1 got worse beyond chance, -10.5 points on average." in said
    assert "1 label got worse beyond chance, net.switch most." in said
    assert said.endswith("The confusion that grew most: net.switch taken for web.page (0 → 4).")


@pytest.mark.parametrize("written", [words(CARD, LINKS), Reader(page(CARD)).text])
def test_both_pages_answer_what_got_worse_which_data_made_it_and_how_to_rebuild_it(written: str) -> None:
    worse = written.partition("What got worse")[2].partition("What got better")[0]
    assert "2025-04" in worse
    assert "net.switch" in worse
    assert re.search(r"0 → 4", worse)
    data = written.partition("Which data made it")[2]
    for source in SOURCES:
        assert source.name in data
        assert source.md5 in data
    assert "takes 2.00" in written
    assert pages.NUMBER in written


def test_the_whole_card_lists_examples_experts_and_calibration() -> None:
    text = "".join(Reader(page(CARD)).text.split())
    for part in ("trunktheport", "fixthemenu", "12.0%oftheroutedload", "171.00%9.00%", "apartby0.110"):
        assert part in text


def test_a_loss_within_chance_is_told_as_such_and_no_loss_as_none() -> None:
    kept = dataclasses.replace(COMPARISON, past=(Change("2025-05", 60, 0.8, 0.79, 3.0),), labels=())
    told = words(dataclasses.replace(CARD, comparison=kept), LINKS)
    assert "- no month and no label lost more than chance may do" in told
    assert "- within chance, 2025-05: 80.0% → 79.0% right (-1.0 ± 3.0 points)" in told


def test_a_base_has_a_card_without_a_parent() -> None:
    base = Card("base", None, ("db.sql",), "The base: trained from nothing.", SOURCES[:1])
    assert "trained from nothing" in words(base, LINKS)
    assert "What got worse" not in page(base)


def test_what_users_wrote_is_text_and_nothing_else_in_html() -> None:
    read = Reader(page(hostile()))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img", "iframe", "form", "a"})
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in read.text


def test_a_card_fetches_nothing() -> None:
    content = page(CARD)
    (policy,) = [kept["content"] for tag, kept in Reader(content).tags if kept.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")
    assert re.findall(r"(?:src|href)\s*=\s*\S+", content) == ['href="data:,">']
    assert "url(" not in content
    assert "@import" not in content


def test_what_users_wrote_is_no_mark_no_tag_and_no_link_in_markdown() -> None:
    told = words(hostile(), LINKS)
    assert not re.search(r"<[a-z/]", told)
    assert not re.search(r"(?<!\\)!(?<!\\)\[", told)
    assert "http://" not in told
    assert [line for line in told.splitlines() if line.startswith("#")] == [
        *(pages.HEADING, "## What got worse", "## What got better", "## Which data made it", "## Gates")
    ]


def test_a_description_stays_within_what_mlflows_databases_keep() -> None:
    long = dataclasses.replace(
        CARD,
        sources=tuple(dataclasses.replace(SOURCES[0], name=f"20{year}-01") for year in range(10, 90)),
        gates=tuple(Gate(f"gate {number}", True, 0, 0, "because " * 60) for number in range(12)),
    )
    told = pages.fill_words(words(long, LINKS), pages.in_markdown(pages.Told("Tried.")), "7")
    assert len(told) <= 5000
    assert "and 72 older snapshots" in told


def test_figures_have_the_same_names_for_every_version_and_leave_out_what_was_not_measured() -> None:
    one = Evaluation(40, 0.75, 0.7, 0.1, 0.05, (), ())
    none = Evaluation(0, math.nan, math.nan, math.nan, math.nan, (), ())
    contest = Contest(one, {"2025-04": dataclasses.replace(one, accuracy=0.5), "2025-05": none}, 9.0, 1000)
    figures = figures_of(contest, CARD.labels, COMPARISON)
    assert figures["new_month.accuracy"] == 0.75
    assert (figures["past.worst"], figures["past.average"]) == (0.5, 0.5)
    assert (figures["past.worst_change"], figures["examples.broken"]) == (pytest.approx(-20), 1)
    assert "month.2025-05.accuracy" not in figures
    assert set(figures_of(contest, CARD.labels)) < set(figures)


def test_the_snapshots_of_a_version_come_with_rows_labels_dates_and_the_md5_of_dvc(tmp_path: Path) -> None:
    begin = datetime(2025, 6, 1, tzinfo=UTC)
    rows = [SnapshotRow(f"text {day}", "ab"[day % 2], None, begin + timedelta(days=day), "test") for day in range(28)]
    frozen = Snapshots(tmp_path).freeze("2025-06", rows)
    (source,) = sources_of(Snapshots(tmp_path), (), ("2025-06",))
    assert (source.rows, source.labels, source.first, source.last) == (28, 2, "2025-06-01", "2025-06-28")
    assert (source.md5, source.fresh) == (frozen.md5, True)
    assert 0 < source.held_out < 28


def test_rows_without_a_label_are_no_label_and_examine_nothing(tmp_path: Path) -> None:
    begin = datetime(2025, 6, 1, tzinfo=UTC)
    told = [SnapshotRow(f"text {n}", "ab"[n % 2], None, begin + timedelta(hours=n), "test") for n in range(20)]
    bare = [SnapshotRow(f"bare {n}", None, None, begin + timedelta(hours=n), "test") for n in range(40)]
    Snapshots(tmp_path).freeze("2025-06", told)
    Snapshots(tmp_path).freeze("2025-07", [*told, *bare])
    without, with_bare = sources_of(Snapshots(tmp_path), (), ("2025-06", "2025-07"))
    assert (with_bare.rows, with_bare.labels) == (60, 2)
    assert with_bare.held_out == without.held_out > 0


def decided(tmp_path: Path, reason: str) -> pages.Told:
    """What is told of a rollout that a person ended with a promotion, for this reason."""
    opened = datetime(2025, 7, 1, 6, tzinfo=UTC)
    evidence = {
        "e_promote": 52.3,
        "e_abort": 0.01,
        "threshold": 40.0,
        "lift": 0.21,
        "lift_low": 0.05,
        "lift_high": 0.38,
    }
    evidence |= {"rewards_champion": 120, "rewards_challenger": 34, "mean_champion": 0.62, "mean_challenger": 0.85}
    with Ledger(f"sqlite:///{tmp_path / 'events.db'}") as ledger:
        ledger.open(new_rollout("june", "2025-06", "6", "7", "salt", Policy(), opened), by="flow monthly")
        decision = Decision("promote", 0.05, reason)
        rollout = ledger.apply("june", decision, "ann", opened + timedelta(days=9), evidence | {"agreed": 210})
        return pages.of_rollout(rollout, ledger.history("june"))


def test_the_end_of_a_trial_takes_its_place_in_both_pages_with_its_evidence(tmp_path: Path) -> None:
    told = decided(tmp_path, "better: e-value 52.3 reached 40")
    described = pages.fill_words(words(CARD, LINKS), pages.in_markdown(told, "#/experiments/1/runs/3"), "7")
    card = Reader(pages.fill_card(page(CARD), pages.in_html(told, "3"), "7")).text
    for written in (described, card):
        assert "Version 7 replaced version 6 on 2025-07-10." in written
        for fact in ("ann, 2025-07-10", "better: e-value 52.3 reached 40", "+0.210, in", "+0.050, +0.380"):
            assert fact in written
        assert "version 7 0.850 over 34, version 6 0.620 over 120; 210 more where both answer alike" in written
        assert "met no users yet" not in written
        assert "evermoe reproduce 7" in written
        assert "What got worse" in written
    again = pages.fill_words(described, pages.in_markdown(told, "#/experiments/1/runs/3"), "7")
    assert again == described


def test_a_reason_given_by_hand_is_text_and_nothing_else(tmp_path: Path) -> None:
    told = decided(tmp_path, f"\\1 {EVIL}</section>")
    read = Reader(pages.fill_card(page(CARD), pages.in_html(told), "7"))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img"})
    twice = pages.fill_card(pages.fill_card(page(CARD), pages.in_html(told), "7"), pages.in_html(told), "7")
    assert Reader(twice).text == read.text
    assert "<" not in pages.in_markdown(told).replace("&lt;", "")


def test_a_description_from_before_there_were_cards_gets_the_section_at_its_end(tmp_path: Path) -> None:
    told = pages.in_markdown(decided(tmp_path, "why"))
    described = pages.fill_words("Version 1 and what users taught.", told, "7")
    assert described.startswith("Version 1 and what users taught.\n\n## Its trial")
    assert pages.fill_words(described, told, "7") == described


def test_why_a_version_met_no_users_is_what_holds_now() -> None:
    tags = {"evermoe.gates": "failed", "evermoe.gates_failed": "new month gains -1.0 points"}
    made = Version("4", "2025-07", "1", None, "m-4", "models:/m-4", "", tags, (), datetime(2025, 8, 1, tzinfo=UTC))
    assert "failed at the gates" in untried(made).sentence
    let_go = dataclasses.replace(
        made, tags=tags | {"evermoe.gates": "overridden", "evermoe.rollout": "paused; it waits"}
    )
    assert (untried(let_go).sentence, untried(let_go).facts) == ("It has met no users.", (("why", "paused; it waits"),))
