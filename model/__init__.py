"""The MoE language model and how it learns. Tensors in, tensors and numbers out; no tracker, scheduler or server."""

from model.checkpoint import Checkpoints
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.evaluate import Evaluation, evaluate
from model.gates import Gate, judge
from model.language import Classification, LanguageModel, from_pretrained
from model.learn import Recipe, Step, align, average, distil, settle, train_base, train_month
from model.mixture import Example, beside, replay
from model.preferences import Alignment, Thumb, preference
from model.upcycle import upcycle

__all__ = [
    "Alignment",
    "Checkpoints",
    "Classification",
    "Evaluation",
    "Example",
    "Gate",
    "LanguageModel",
    "MoeConfig",
    "MoeForCausalLM",
    "Recipe",
    "Step",
    "Thumb",
    "align",
    "average",
    "beside",
    "distil",
    "evaluate",
    "from_pretrained",
    "judge",
    "preference",
    "replay",
    "settle",
    "train_base",
    "train_month",
    "upcycle",
]
