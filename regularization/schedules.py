"""Schedules of the learning rate."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupDecay(LambdaLR):
    """Learning rate × factor: a linear rise from 0 over the warm-up, then a decay to 0 at the end of training.

    With t = step / ``total_steps`` and w = ``warmup``, the factor is t/w while t < w, then with u = (t − w)/(1 − w)
    1 − u (linear) or ½(1 + cos πu) (cosine, Loshchilov and Hutter 2016, arXiv:1608.03983). It multiplies the
    optimizer's own learning rate, which so stays the one number to change. Steps once per optimizer step.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps of the whole training; null takes them from the trainer.
        warmup: Share of the steps that the warm-up takes, 0 to 1.
        decay: Shape of the decay.

    Raises:
        ValueError: When ``warmup`` is not in 0 … 1 or ``total_steps`` not positive.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.1,
        decay: Literal["linear", "cosine"] = "cosine",
    ) -> None:
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must lie in 0 to 1, not {warmup}")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}")
        self.total_steps = total_steps
        self.warmup = warmup
        self.decay = decay
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at ``step``, counted from 0."""
        # The first step is already one above zero, the last one still above it: no step is wasted.
        time = (step + 1) / (self.total_steps + 1)
        if time < self.warmup:
            return time / self.warmup
        rest = max(0.0, (1 - time) / (1 - self.warmup)) if self.warmup < 1 else 1.0
        return rest if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * rest)
