"""Models in folders: ours as we save them, Qwen3-MoE as others do. Whatever is wrong with a folder is found before it is used.

Knows files and how they belong together; not what a network computes, nor how it is asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast, Qwen3MoeConfig

from evermoe.errors import BadInput
from model import qwen3_moe
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.manifest import recorded_files, verify_manifest, write_manifest
from model.tokens import TOKENIZER, load_tokenizer
from model.weights import INDEX, FolderWeights, first_line, require_fit, shards

CONFIG, LABELS, GENERATION = "config.json", "labels.json", "generation_config.json"
DENSE = ("llama", "qwen2", "qwen3")
"""Types of models that can be upcycled."""

READ: dict[str, type[MoeConfig] | type[Qwen3MoeConfig]] = {"evermoe": MoeConfig, "qwen3_moe": Qwen3MoeConfig}
"""Types of models that load as they are."""

Layout = Literal["evermoe", "qwen3_moe"]
AnyConfig = TypeVar("AnyConfig", bound=PretrainedConfig)


@dataclass(frozen=True)
class Contents:
    """What a folder holds. `max_length` is None where nothing says how long a text may be; `temperature` is that of the scores
    of labels."""

    network: MoeForCausalLM
    tokenizer: PreTrainedTokenizerFast | None
    labels: Sequence[str]
    max_length: int | None
    temperature: float


def read_folder(folder: Path) -> Contents:
    """Read a folder of either layout. Raises `BadInput`, one line, for whatever is wrong with it."""
    kind = model_type(folder)
    if kind not in READ:
        do = "; model.upcycle or `evermoe upcycle` gives it experts" if kind in DENSE else ""
        raise BadInput(f"{folder}: a model of type {kind!r}, not of {' or '.join(READ)}{do}")
    config = read_config(folder, READ[kind])
    verify_manifest(folder)
    labels, max_length, temperature = _labels(folder)
    tokenizer = load_tokenizer(folder)
    if isinstance(config, Qwen3MoeConfig):
        network = qwen3_moe.load(folder, config)
        network.generation_config = generation_config(folder) or network.generation_config
    else:
        if tokenizer is None and not recorded_files(folder):
            raise BadInput(f"{folder / TOKENIZER} is missing; restore the folder from where it came")
        network = _our_network(folder, config)
    return Contents(network, tokenizer, labels, max_length, temperature)


def write_folder(folder: Path, contents: Contents, layout: Layout) -> None:
    """Write a folder of either layout, with a manifest. Raises `BadInput` where the layout has no place for the network."""
    if layout == "qwen3_moe":
        qwen3_moe.save(contents.network, folder)
    else:
        contents.network.save_pretrained(folder)
    names = [CONFIG, GENERATION, LABELS, INDEX, *(file.name for file in shards(folder))]
    if contents.tokenizer is not None:
        names += [Path(file).name for file in contents.tokenizer.save_pretrained(folder)]
    content = {
        "labels": list(contents.labels),
        "max_length": contents.max_length,
        "temperature": contents.temperature,
    }
    (folder / LABELS).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_manifest(folder, [name for name in names if (folder / name).is_file()])


def model_type(folder: Path) -> str:
    """What kind of model a folder holds. Raises `BadInput` where it does not say."""
    kind = _json(folder, CONFIG).get("model_type")
    if not isinstance(kind, str):
        raise BadInput(f"{folder / CONFIG} names no model_type; it is no model of `transformers`")
    return kind


def read_config(folder: Path, kind: type[AnyConfig]) -> AnyConfig:
    """The configuration in a folder. Raises `BadInput` for one that cannot work."""
    try:
        config: AnyConfig = kind.from_dict(_json(folder, CONFIG))
    except BadInput as error:
        raise BadInput(f"{folder / CONFIG}: {error}") from None
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise BadInput(f"{folder / CONFIG}: a configuration that cannot work ({first_line(error)})") from None
    return config


def generation_config(folder: Path) -> GenerationConfig | None:
    """How the model's makers generate with it, where they say. Raises `BadInput` for a file that cannot be read."""
    if not (folder / GENERATION).exists():
        return None
    return GenerationConfig.from_dict(_json(folder, GENERATION))


def _our_network(folder: Path, config: MoeConfig) -> MoeForCausalLM:
    weights = FolderWeights(folder)
    with torch.device("meta"):
        blank = MoeForCausalLM(config)
    expected = {name: tuple(tensor.shape) for name, tensor in blank.state_dict().items()}
    found = dict(weights.shapes)
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
        found.pop("lm_head.weight", None)
    require_fit(folder, expected, found)
    return MoeForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def _labels(folder: Path) -> tuple[list[str], int | None, float]:
    """The labels learned, the length of texts and the temperature of scores; a folder that we did not save has none of them,
    and one of ours from before there were temperatures has 1."""
    if not (folder / LABELS).exists():
        return [], None, 1.0
    content = _json(folder, LABELS)
    labels, max_length, temperature = content.get("labels"), content.get("max_length"), content.get("temperature", 1.0)
    if (
        not isinstance(labels, list)
        or not all(isinstance(one, str) for one in labels)
        or not isinstance(max_length, int)
        or not isinstance(temperature, int | float)
        or not 0.0 < temperature < math.inf
    ):
        raise BadInput(
            f"{folder / LABELS} does not hold labels, max_length and temperature; restore it from where it came"
        )
    return labels, max_length, float(temperature)


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder}: not a model folder, it has no {name}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / name} cannot be read ({first_line(error)}); restore it") from None
    if not isinstance(content, dict):
        raise BadInput(f"{folder / name} holds no JSON object; restore it")
    return content
