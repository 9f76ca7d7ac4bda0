"""The learning rate over a run. Knows nothing of optimisers."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: float = 0.05, floor: float = 0.0) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear over the first `warmup` share, then a half cosine to `floor`.

    The defaults are the source document's, section 4.1. Raises ValueError unless 0 <= step < steps.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is outside a run of {steps} steps")
    rising = max(1, math.ceil(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising + 1) / max(1, steps - rising)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
