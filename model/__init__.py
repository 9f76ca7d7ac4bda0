"""The MoE language model and how it learns. Tensors in, tensors and numbers out; no tracker, scheduler or server."""

from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.evaluate import Evaluation, evaluate
from model.gates import Gate, judge
from model.language import Classification, LanguageModel, from_pretrained
from model.learn import Recipe, Step, distil, train_base, train_month
from model.mixture import Example, mix, replay
from model.upcycle import upcycle

__all__ = [
    "Classification",
    "Evaluation",
    "Example",
    "Gate",
    "LanguageModel",
    "MoeConfig",
    "MoeForCausalLM",
    "Recipe",
    "Step",
    "distil",
    "evaluate",
    "from_pretrained",
    "judge",
    "mix",
    "replay",
    "train_base",
    "train_month",
    "upcycle",
]
