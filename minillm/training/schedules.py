"""Learning-rate schedules: a linear warmup, a time at the top, then one of three falls."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from minillm.errors import SettingError

After = Literal["linear", "constant", "cosine", "sqrt"]


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, after: After, decay_steps: int | None = None, final: float = 0.0
) -> float:
    """Return what the learning rate is multiplied with at a step.

    It rises in a line over ``warmup_steps``, never 0, to 1 (Goyal et al. 2017); then it stays there (``constant``), or
    falls to ``final`` behind the last step: in a line (``linear``), along half a cosine (``cosine``, Loshchilov and
    Hutter 2017), or as 1 - sqrt(share of the fall), steep at first (``sqrt``, Hägele et al. 2024).

    >>> [round(learning_rate_factor(step, 8, 2, "linear"), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]
    >>> [round(learning_rate_factor(step, 8, 2, "linear", decay_steps=2, final=0.1), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.55]

    Args:
        step: optimizer steps done, from 0.
        total_steps: optimizer steps of the whole training.
        warmup_steps: steps of the rise.
        after: the curve behind it.
        decay_steps: the fall's, at the end; None: all behind the warmup.
        final: share of the peak that is left when it ends.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if after == "constant":
        return 1.0
    behind_warmup = total_steps - warmup_steps
    fall = behind_warmup if decay_steps is None else min(decay_steps, behind_warmup)
    progress = min(1.0, max(0.0, (step - total_steps + fall) / max(1, fall)))
    curve = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "sqrt": 1 - math.sqrt(progress),
    }[after]
    return final + (1 - final) * curve


def warmup_schedule(
    optimizer: Optimizer,
    total_steps: int | None,
    warmup: float = 0.1,
    after: After = "linear",
    decay: float | None = None,
    final: float = 0.0,
) -> LambdaLR:
    """Return a scheduler for every optimizer step.

    Args:
        optimizer: whose learning rates are scheduled, all by the same factor.
        total_steps: optimizer steps of the whole training; None where it has no end.
        warmup: share of the training that the rise takes, under 1; or, from 1 on, its steps.
        after: the curve behind the warmup, see `learning_rate_factor`.
        decay: share or steps of the fall at the end, until which the rate stays at its peak (warmup-stable-decay, Hu
            et al. 2024); None: it falls from the warmup on.
        final: share of the peak that it falls to.

    Raises:
        SettingError: a share outside its range, or a curve without an end to fall to.
    """
    if not 0 <= warmup < math.inf:
        raise SettingError("scheduler.warmup", warmup, "must be a share of the training, such as 0.1, or steps")
    if decay is not None and not 0 < decay < math.inf:
        raise SettingError("scheduler.decay", decay, "must be a share of the training, such as 0.2, or steps, or null")
    if decay is not None and after == "constant":
        raise SettingError("scheduler.decay", decay, "scheduler=constant never falls; use scheduler=wsd, or null")
    if not 0 <= final <= 1:
        raise SettingError("scheduler.final", final, "must be a share of optimizer.lr from 0 to 1, such as 0.1")
    if total_steps is None and (after != "constant" or 0 < warmup < 1):
        raise SettingError(
            "trainer.max_epochs", -1, "a schedule needs an end; set it or use scheduler=constant scheduler.warmup=100"
        )
    steps = total_steps or 0

    def steps_of(share: float) -> int:
        return round(share * steps) if share < 1 else int(share)

    warmup_steps, decay_steps = steps_of(warmup), None if decay is None else steps_of(decay)
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, warmup_steps, after, decay_steps, final))
