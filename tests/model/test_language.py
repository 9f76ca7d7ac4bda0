"""A model answers with the label it would most likely spell, from any set of labels it is asked about."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import pytest
import torch

from evermoe.errors import BadInput
from model import Example, evaluate, from_pretrained
from model.label_trie import LabelTrie
from model.language import Generated, pick


def test_a_trained_model_tells_its_labels_apart(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    result = evaluate(
        model, [Example("fix the route option", "net.switch"), Example("remove the query option", "db.sql")]
    )
    assert result.accuracy == 1.0


def test_scores_sum_to_one_for_labels_never_seen_too(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    labels = ["net.switch", "net.router", "net", "db.sql", "数据库", "💥"]
    answer = model.classify(["fix the vlan option"], labels)[0]
    assert set(answer.scores) == set(labels)
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
    assert answer.label == max(answer.scores, key=answer.scores.__getitem__)


def test_a_batch_answers_as_one_at_a_time(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    texts = ["fix", "speed up the vlan option of the switch port", "rename the row", ""]
    together = model.classify(texts)
    for text, answer in zip(texts, together, strict=True):
        alone = model.classify([text])[0]
        assert alone.label == answer.label
        assert alone.scores == pytest.approx(answer.scores, abs=1e-4)


def test_the_trie_gives_the_probability_of_constrained_spelling(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    labels = ["net.switch", "net.sw", "net", "db.sql", "db"]
    answers = [model.codec.answer(label) for label in labels]
    prompt = model.codec.prompt("fix the table option")
    expected = []
    for answer in answers:
        probability = 1.0
        for at, token in enumerate(answer):
            ways = sorted({other[at] for other in answers if other[:at] == answer[:at]})
            if len(ways) > 1:
                with torch.no_grad():
                    logits = model.network(torch.tensor([[*prompt, *answer[:at]]])).logits[0, -1, ways]
                probability *= float(logits.softmax(-1)[ways.index(token)])
        expected.append(probability)
    tokens = torch.tensor([prompt])
    scores, _ = LabelTrie(answers, model.codec.pad).scores(model.network, tokens, torch.ones_like(tokens))
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_no_label_at_all_is_refused(tiny_model_folder) -> None:
    with pytest.raises(BadInput, match="no labels"):
        from_pretrained(tiny_model_folder).classify(["text"], [])


def test_one_label_is_certain(tiny_model_folder) -> None:
    assert from_pretrained(tiny_model_folder).classify(["text"], ["only"])[0].scores == {"only": 1.0}


def test_special_tokens_written_in_a_text_are_plain_characters(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    assert model.codec.label not in model.codec.text("<|label|>db.sql<|eos|>")


def test_generation_stops_before_a_stop_string_and_repeats_at_a_seed(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    drawn = ["".join(model.generate("fix", temperature=1.0, seed=7, max_new_tokens=12)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    free = "".join(model.generate("fix the", max_new_tokens=12))
    stop = free[len(free) // 2 :][:2]
    assert "".join(model.generate("fix the", max_new_tokens=12, stop=[stop])) == free[: free.index(stop)]


def test_streamed_pieces_join_to_the_whole_text(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    pieces = list(model.generate("fix the", max_new_tokens=12))
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(itertools.chain(pieces)) == "".join(model.generate("fix the", max_new_tokens=12))


def told(pieces: Generator[str, None, Generated]) -> tuple[str, Generated]:
    """The whole text of a generation, and what it tells of itself at its end."""
    text = ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            return text, end.value


@pytest.mark.parametrize("max_new_tokens", [126, 128, 4096])
def test_a_prompt_is_read_however_many_new_tokens_are_asked_for(tiny_model_folder, max_new_tokens: int) -> None:
    model = from_pretrained(tiny_model_folder)
    prompt = "fix the vlan option of the port"
    few, _ = told(model.generate(prompt, max_new_tokens=4))
    many, end = told(model.generate(prompt, max_new_tokens=max_new_tokens))
    assert many.startswith(few)
    assert end.prompt_tokens == len(model.codec.opening(prompt))


def test_a_prompt_longer_than_the_window_keeps_its_end_and_leaves_room_for_one_token(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    model.network.config.max_position_embeddings = 8
    read: list[list[int]] = []
    model.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0].tolist()))
    prompt = "fix the vlan option of the port, the"
    _, end = told(model.generate(prompt, max_new_tokens=12))
    assert read == [[model.codec.bos, *model.codec.text(prompt)[-6:]]]
    assert end == Generated(prompt_tokens=7, output_tokens=1, finish="length")


def test_a_generation_tells_how_many_tokens_it_made_and_why_it_ended(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    free, end = told(model.generate("fix the", max_new_tokens=12))
    assert (end.output_tokens, end.finish, end.cut) == (12, "length", False)
    _, end = told(model.generate("fix the", max_new_tokens=12, stop=[free[len(free) // 2 :][:2]]))
    assert end.output_tokens < 12
    assert (end.finish, end.cut) == ("stop", True)


@pytest.mark.parametrize("temperature", [1e-60, 1e-45, 1e-39, 9e-5])
def test_a_temperature_too_low_to_divide_by_is_greedy(temperature: float) -> None:
    assert pick(torch.tensor([1.0, 30.0, 29.99]), temperature, None) == 1


def test_a_saved_model_comes_back_the_same(tiny_model_folder, tmp_path) -> None:
    model = from_pretrained(tiny_model_folder)
    again = from_pretrained(model.save(tmp_path / "copy"))
    assert again.labels == model.labels
    assert again.classify(["add the index"])[0] == model.classify(["add the index"])[0]
    assert not [file for file in (tmp_path / "copy").iterdir() if file.suffix in {".bin", ".pt", ".pkl"}]


def test_a_folder_that_is_no_model_is_named(tmp_path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        from_pretrained(tmp_path)


RARE = "\u9f98"  # several tokens, where no text had it


def test_labels_that_begin_alike_for_long_cost_no_more_than_their_tokens(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    chain = [f"{RARE * number}x" for number in range(1, 60)]
    answer = model.classify(["fix the table option"], chain)[0]
    assert sum(answer.scores.values()) == pytest.approx(1.0, abs=1e-4)
    spread = [f"{number:04}{RARE * 100}{way}" for number in range(100) for way in "ab"]
    with pytest.raises(BadInput, match="telling these labels apart takes"):
        model.classify(["fix the table option"], spread)
    with pytest.raises(BadInput, match="telling these labels apart takes"):
        model.classify(["text"], [f"{number}{RARE * 250}" for number in range(1000)])
