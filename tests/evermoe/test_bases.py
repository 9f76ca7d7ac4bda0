"""A base by name puts its part of params.yaml in place, a home keeps its own, a pretrained one learns to answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evermoe.errors import BadInput
from evermoe.settings import STAMP, load_params, settings, use_base, use_home
from tests.model.foreign_models import random_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EVERMOE_BASE", "")  # so that what a test sets is taken back
    monkeypatch.delenv("EVERMOE_BASE")
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


def test_a_base_puts_only_its_own_part_in_place(home: Path) -> None:
    usual, other = load_params(), load_params(base="smollm2")
    assert (usual.base.pretrained, other.base.pretrained) == (None, "smollm2")
    assert other.update.learning_rate < usual.update.learning_rate
    assert other.update.model_copy(update={"learning_rate": 0, "distil_learning_rate": 0}) == usual.update.model_copy(
        update={"learning_rate": 0, "distil_learning_rate": 0}
    )
    assert (other.gates, other.rollout, other.stream) == (usual.gates, usual.rollout, usual.stream)


def test_a_home_keeps_the_base_it_began_with(home: Path) -> None:
    use_base("smollm2")
    assert load_params().base.pretrained == "smollm2"
    use_home(None).open_home()
    assert json.loads((home / STAMP).read_text())["base"] == "smollm2"
    use_base(None)
    settings.cache_clear()
    assert load_params().base.pretrained == "smollm2"


def test_a_home_that_began_without_one_does_not_take_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_home(None).open_home()
    monkeypatch.setenv("EVERMOE_BASE", "smollm2")
    settings.cache_clear()
    assert load_params().base.pretrained is None


@pytest.mark.parametrize(
    ("bases", "said"),
    [({"big": {}}, "no base is called 'small'; there are: big"), ({}, "no base is called 'small'; there are: none")],
)
def test_an_unknown_base_is_one_line(home: Path, tmp_path: Path, bases: dict[str, object], said: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"base": {}, "bases": bases}))
    with pytest.raises(BadInput, match=said):
        load_params(file, base="small")


def test_a_misspelt_key_of_a_base_is_named(home: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["bases"]["smollm2"]["update"]["learning_rat"] = 1
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=r"update\.learning_rat"):
        load_params(file, base="smollm2")


def test_a_pretrained_base_learns_to_answer(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.learning.base import learn
    from model import Example

    random_folder(tmp_path / "dense", "llama", tokenizer=True)
    monkeypatch.setattr("flows.learning.base.bring_smollm2", lambda cache: tmp_path / "dense")
    examples = [Example(f"the {word} of the port {n}", word) for n in range(24) for word in ("vlan", "index")]
    params = load_params(base="smollm2")
    base = params.base.model_copy(update={"epochs": 6, "learning_rate": 3e-3, "batch_size": 8})
    learned = learn(examples, params.model_copy(update={"base": base}), lambda step: None)
    assert (learned.labels, learned.network.config.num_experts) == (("index", "vlan"), params.model.experts)
    assert learned.network.blocks[0].experts.down_EFD.any()
    given = learned.classify([example.text for example in examples])
    assert sum(one.label == example.label for one, example in zip(given, examples, strict=True)) >= 46
