"""The README says what is so. Its longer examples are run whole, with a real home, in `test_end_to_end.py`."""

from __future__ import annotations

import re

import pytest

from commands.main import VERBS
from evermoe.settings import ROOT

PAGES = ["README.md", "CHANGELOG.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_there_and_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = set(re.findall(r"(?<![\w-])make ([a-z-]+)(?=[ `\n])", README)) & {"demo", "test", "up", "check", "bench"}
    assert {"demo", "test"} <= asked <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_that_a_page_names_is_one(page: str) -> None:
    named = set(re.findall(r"evermoe ([a-z]+)(?=[ `\n])", re.sub(r"\s+", " ", (ROOT / page).read_text())))
    assert named - {"is", "and", "command"} <= set(VERBS)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_path_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), link
    for path in re.findall(r"`((?:flows|model|registry|monitoring|serving|streams|commands|docs)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


def test_figures_name_the_command_that_made_them() -> None:
    blocks = re.findall(r"<!-- figures: (.+?) -->\n(.*?)<!-- /figures -->", README, flags=re.DOTALL)
    assert blocks
    for command, table in blocks:
        assert command.split()[0] in ("make", "python", "evermoe")
        assert re.search(r"\d", table)
