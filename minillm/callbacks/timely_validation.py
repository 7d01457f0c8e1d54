"""Validation within long epochs, and at the end of any training."""

import time
from typing import Any

import lightning as L

from minillm.clock import clock_of
from minillm.errors import SettingError


class TimelyValidation(L.Callback):
    """Validates within an epoch that is long, and once more where training ends before its epoch does.

    Besides the validations that the Trainer is set to: within an epoch, so often that they take at most a share of the
    time. How long one takes is known from the last one; before the first, each of its batches is taken for as long as
    one of the training. An epoch whose end is no further off than the next such validation is left alone, so that a
    short one has only that at its end. The training is the same, bit for bit, with and without them.

    Args:
        max_share: of the time between two validations, the most that the second may take; 0: none within epochs.
        min_minutes: the least time between two, whatever they take.

    Raises:
        SettingError: max_share outside [0, 1], or a negative min_minutes.
    """

    def __init__(self, max_share: float = 0.03, min_minutes: float = 10.0) -> None:
        if not 0 <= max_share <= 1:
            raise SettingError("max_share", max_share, "must be at least 0, which means never, and at most 1")
        if not min_minutes >= 0:
            raise SettingError("min_minutes", min_minutes, "must be at least 0")
        self.max_share, self.min_minutes = max_share, min_minutes
        self._seconds = 0.0  # of training since the last validation, in a run that was interrupted meanwhile
        self._batches = 0  # that took them
        self._cost: float | None = None  # seconds that the last validation took
        self._start: float | None = None
        self._validation_start = 0.0
        self._usual: dict[str, Any] = {}  # the Trainer's own settings, while others force a validation

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Leave the Trainer its own settings."""
        self._restore(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Have the Trainer validate after this batch, if it is time or if training is over."""
        self._batches += 1
        if trainer.enable_validation and (self._is_end(trainer) or self._is_due(trainer)):
            # After a batch, Lightning validates if these agree with its number within the epoch.
            forced = {
                "check_val_every_n_epoch": 1,
                "val_check_batch": trainer.fit_loop.batch_idx + 1,
                "_val_check_time_interval": None,
            }
            self._usual = {name: getattr(trainer, name) for name in forced}
            vars(trainer).update(forced)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the Trainer its own settings; time the validation."""
        self._restore(trainer)
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know what a validation costs, and start the clock again."""
        now = time.monotonic()
        self._start, self._cost = now, now - self._validation_start
        self._seconds, self._batches = 0.0, 0

    def _restore(self, trainer: L.Trainer) -> None:
        vars(trainer).update(self._usual)
        self._usual = {}

    def _is_end(self, trainer: L.Trainer) -> bool:
        """Return whether no batch follows."""
        if _left(trainer.max_steps, trainer.global_step) == 0 or (
            trainer.should_stop and trainer.fit_loop._can_stop_early
        ):
            return True
        is_last = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        return is_last and _left(trainer.max_epochs, trainer.current_epoch + 1) == 0

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Return whether to validate within the epoch, at a step's end, the same in all processes."""
        if not self.max_share or trainer.fit_loop._should_accumulate():
            return False
        seconds = self._elapsed()
        pace = seconds / self._batches
        cost = sum(trainer.num_val_batches) * pace if self._cost is None else self._cost
        interval = max(60 * self.min_minutes, cost / self.max_share)
        steps = _left(trainer.max_steps, trainer.global_step) * trainer.accumulate_grad_batches
        left = min(trainer.num_training_batches - (trainer.fit_loop.batch_idx + 1), steps) * pace
        if (clock := clock_of(trainer)) is not None and (remaining := clock.remaining()) is not None:
            left = min(left, remaining)
        return trainer.strategy.reduce_boolean_decision(seconds >= interval and left >= interval)

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._start is None else time.monotonic() - self._start)

    def state_dict(self) -> dict[str, Any]:
        """Return how long training has gone without a validation, and what one costs."""
        return {"seconds": self._elapsed(), "batches": self._batches, "cost": self._cost}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds, self._batches, self._cost = (state_dict[name] for name in ("seconds", "batches", "cost"))


def _left(limit: int | None, done: int) -> float:
    """Return how many of a limited number are left; -1 and None are Lightning's words for no limit."""
    return float("inf") if limit in (None, -1) else max(0, limit - done)
