"""Learning-rate schedules: a linear warmup, a time at the top, then one of three falls."""

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from minillm.errors import SettingError

After = Literal["linear", "constant", "cosine", "sqrt"]
FEW = 10  # steps
SMALLEST = 1e-9  # share of a training: before its first step nothing is known of its length


def learning_rate_factor(
    step: int,
    total_steps: float,
    warmup_steps: float,
    after: After,
    decay_steps: float | None = None,
    final: float = 0.0,
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
    done: Callable[[], float] | None = None,
) -> LambdaLR:
    """Return a scheduler for every optimizer step.

    Whatever ends the training first, the fall ends there. Of a limit that is no number of steps, such as a time, the
    share that is done says at each step how many there will be. Such a warmup rises no faster than over `FEW` steps,
    for the first ones are slow and would be taken for a short training.

    Args:
        optimizer: whose learning rates are scheduled, all by the same factor.
        total_steps: optimizer steps of the whole training; None where no number of them ends it.
        warmup: share of the training that the rise takes, under 1; or, from 1 on, its steps.
        after: the curve behind the warmup, see `learning_rate_factor`.
        decay: share or steps of the fall at the end, until which the rate stays at its peak (warmup-stable-decay, Hu
            et al. 2024); None: it falls from the warmup on.
        final: share of the peak that it falls to.
        done: returns the share of the training that is done by other limits than steps; None: there are none.

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
    if total_steps is None and done is None and (after != "constant" or 0 < warmup < 1):
        raise SettingError(
            "trainer.max_epochs",
            -1,
            "a schedule needs an end; set it, or trainer.max_time, or use scheduler=constant scheduler.warmup=100",
        )

    def factor(step: int) -> float:
        share = 0.0 if done is None else done()
        if done is None or (total_steps is not None and step >= share * total_steps):
            total = total_steps or 0
            warmup_steps, decay_steps = (
                length if length is None or length >= 1 else round(length * total) for length in (warmup, decay)
            )
            return learning_rate_factor(step, total, int(warmup_steps or 0), after, decay_steps, final)
        # Another limit than steps is nearer: there will be as many of them as its share foretells.
        expected = max(1, step) / max(share, SMALLEST)
        warmup_steps, decay_steps = (
            length if length is None or length >= 1 else length * expected for length in (warmup, decay)
        )
        if warmup and step < FEW:
            warmup_steps = max(warmup_steps or 0, FEW)
        return learning_rate_factor(step, expected, warmup_steps or 0, after, decay_steps, final)

    return LambdaLR(optimizer, factor)
