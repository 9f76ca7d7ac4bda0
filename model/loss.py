"""What a batch is worth: cross-entropy, divergence from a teacher, the preference loss. Knows no optimiser and no network.

R rows (tokens that count), V vocabulary, M answers that were judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax


@dataclass(frozen=True)
class Term:
    """One part of a loss: a sum, and the count to divide it by.

    They are kept apart so that a run on several devices can add both over the devices before it divides.
    """

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The sum over the count."""
        return self.total / self.count.clamp(min=1e-9)


def weighted_cross_entropy(logits_RV: Tensor, target_R: Tensor, weight_R: Tensor, smoothing: float = 0.0) -> Term:
    """The rows' cross-entropy under `weight_R`, in nats; the weights need not sum to anything.

    Of each target `smoothing` goes evenly to the whole vocabulary (Szegedy et al., arXiv 1512.00567, section 7).
    """
    loss_R = cross_entropy(logits_RV.float(), target_R, reduction="none", label_smoothing=smoothing)
    return Term((loss_R * weight_R).sum(), weight_R.sum())


def divergence(student_RV: Tensor, teacher_RV: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence KL(teacher || student) at a temperature, times its square, summed over R rows, in nats.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    student = log_softmax(student_RV.float() / temperature, -1)
    teacher = log_softmax(teacher_RV.float() / temperature, -1)
    return kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def kto(reward_M: Tensor, up_M: Tensor, reference_point: float, beta: float, weights: tuple[float, float]) -> Term:
    """Kahneman-Tversky optimisation from unpaired judgements.

    Args:
        reward_M: log-probability of each answer under the policy less that under the reference, in nats.
        up_M: whether the answer was liked.
        reference_point: z0, the divergence of the policy from the reference; no gradient passes through it.
        beta: how fast a gain or a loss saturates.
        weights: lambda_D of liked answers, lambda_U of disliked ones.

    Source: Ethayarajh et al., arXiv 2402.01306, equation 8: lambda_y - v(x, y), v = lambda_D sigma(beta (r - z0)) for a liked
    answer and lambda_U sigma(beta (z0 - r)) for a disliked one.
    """
    gain_M = beta * (reward_M - reference_point)
    value_M = torch.sigmoid(torch.where(up_M, gain_M, -gain_M))
    weight_M = torch.where(up_M, weights[0], weights[1])
    return Term((weight_M * (1 - value_M)).sum(), torch.tensor(float(len(up_M)), device=reward_M.device))
