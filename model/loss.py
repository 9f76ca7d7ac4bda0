"""What a batch is worth: cross-entropy on the label and, lightly, on the text; distillation from a teacher. Knows no optimiser.

R rows (tokens that count), V vocabulary.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax


def weighted_cross_entropy(logits_RV: Tensor, target_R: Tensor, weight_R: Tensor) -> Tensor:
    """Mean of the rows' cross-entropy under `weight_R`, in nats; the weights need not sum to anything."""
    loss_R = cross_entropy(logits_RV.float(), target_R, reduction="none")
    return (loss_R * weight_R).sum() / weight_R.sum().clamp(min=1e-9)


def distillation(student_RV: Tensor, teacher_RV: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher at a temperature, times its square, mean over R tokens.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    student = log_softmax(student_RV.float() / temperature, -1)
    teacher = log_softmax(teacher_RV.float() / temperature, -1)
    return kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
