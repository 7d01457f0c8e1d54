"""Learning-rate schedules: a linear warmup, then one of three curves."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from minillm.errors import SettingError


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, after: Literal["linear", "constant", "cosine"]
) -> float:
    """Return what the learning rate is multiplied with at a step.

    It rises in a line over ``warmup_steps``, never 0, to 1 (Goyal et al. 2017); then it stays there (``constant``), or
    falls to 0 behind the last step in a line (``linear``) or along half a cosine (``cosine``, Loshchilov and Hutter
    2017).

    >>> [round(learning_rate_factor(step, 8, 2, "linear"), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]

    Args:
        step: optimizer steps done, from 0.
        total_steps: optimizer steps of the whole training.
        warmup_steps: steps of the rise.
        after: the curve behind it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if after == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1 - progress if after == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def warmup_schedule(
    optimizer: Optimizer,
    total_steps: int | None,
    warmup: float = 0.1,
    after: Literal["linear", "constant", "cosine"] = "linear",
) -> LambdaLR:
    """Return a scheduler for every optimizer step.

    Args:
        optimizer: whose learning rates are scheduled.
        total_steps: optimizer steps of the whole training; None where it has no end.
        warmup: share of the training that the rise takes, under 1; or, from 1 on, its steps.
        after: the curve behind the warmup.

    Raises:
        SettingError: a warmup that is negative, or a curve without an end to fall to.
    """
    if warmup < 0:
        raise SettingError("scheduler.warmup", warmup, "must be a share of the training, such as 0.1, or steps")
    if total_steps is None and (after != "constant" or 0 < warmup < 1):
        raise SettingError(
            "trainer.max_epochs", -1, "a schedule needs an end; set it or use scheduler=constant scheduler.warmup=100"
        )
    steps = total_steps or 0
    warmup_steps = round(warmup * steps) if warmup < 1 else int(warmup)
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, warmup_steps, after))
