"""Learning-rate schedules: linear warmup, then a constant or decaying rate, or both."""

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from minillm.errors import SettingError

After = Literal["linear", "constant", "cosine", "sqrt"]
MIN_WARMUP_STEPS = 10  # of a training whose number of steps is an estimate
MIN_PROGRESS = 1e-9  # keeps the estimate finite before the first step


def learning_rate_factor(
    step: int,
    total_steps: float,
    warmup_steps: float,
    after: After,
    decay_steps: float | None = None,
    final: float = 0.0,
) -> float:
    """Return the factor of the learning rate at a step.

    It rises linearly to 1 over ``warmup_steps`` and is never 0 (Goyal et al. 2017). Then it stays at 1 (``constant``)
    or decays to ``final``, which it reaches after the last step: linearly (``linear``), along half a cosine
    (``cosine``, Loshchilov and Hutter 2017), or as 1 - sqrt(progress) (``sqrt``, Hägele et al. 2024).

    >>> [round(learning_rate_factor(step, 8, 2, "linear"), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]
    >>> [round(learning_rate_factor(step, 8, 2, "linear", decay_steps=2, final=0.1), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.55]

    Args:
        step: optimizer steps done, from 0.
        total_steps: optimizer steps of the whole training.
        warmup_steps: steps of the warmup.
        after: the curve after the warmup.
        decay_steps: steps of the decay, the last ones of the training; None: all after the warmup.
        final: the factor at the end of the decay.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if after == "constant":
        return 1.0
    after_warmup = total_steps - warmup_steps
    decay_steps = after_warmup if decay_steps is None else min(decay_steps, after_warmup)
    progress = min(1.0, max(0.0, (step - total_steps + decay_steps) / max(1, decay_steps)))
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
    """Return a scheduler, to be stepped at every optimizer step.

    The decay ends with the training, whichever limit ends that first. For a limit of time or tokens, the number of
    steps is estimated at each step from the progress so far. The warmup is then at least `MIN_WARMUP_STEPS` long: the
    first steps are slow, and the estimate too low.

    Args:
        optimizer: all its learning rates get the same factor.
        total_steps: optimizer steps of the whole training; None: unlimited.
        warmup: share of the training, under 1; or a number of steps, from 1 on.
        after: the curve after the warmup, see `learning_rate_factor`.
        decay: share or steps of the decay at the end, before which the rate is constant (warmup-stable-decay, Hu et
            al. 2024); None: it decays from the end of the warmup on.
        final: the factor at the end of the decay.
        done: returns the progress, 0 to 1, towards other limits than steps; None: there are none.

    Raises:
        SettingError: a value outside its range, or a decay in a training without an end.
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
        # A limit other than steps is nearer: estimate the number of steps from its progress.
        expected = max(1, step) / max(share, MIN_PROGRESS)
        warmup_steps, decay_steps = (
            length if length is None or length >= 1 else length * expected for length in (warmup, decay)
        )
        if warmup and step < MIN_WARMUP_STEPS:
            warmup_steps = max(warmup_steps or 0, MIN_WARMUP_STEPS)
        return learning_rate_factor(step, expected, warmup_steps or 0, after, decay_steps, final)

    return LambdaLR(optimizer, factor)
