"""Validation within long epochs, and at the end of training."""

import time
from typing import Any

import lightning as L

from minillm.clock import clock_of
from minillm.errors import SettingError


class TimelyValidation(L.Callback):
    """Validates within a long epoch, and once more if training ends before its epoch does.

    These validations come in addition to those set in the Trainer, as often as a share of the time allows. The duration
    of a validation is that of the last one; before the first, a validation batch is estimated to take as long as a
    training batch. There is none if the epoch ends sooner than the next one after it would be due, so a short epoch is
    only validated at its end. Training gives the same results, bit for bit, with and without them.

    Args:
        max_share: maximum share of time for validations within epochs; 0: none.
        min_minutes: minimum time between two of them.

    Raises:
        SettingError: max_share outside [0, 1], or a negative min_minutes.
    """

    def __init__(self, max_share: float = 0.03, min_minutes: float = 10.0) -> None:
        if not 0 <= max_share <= 1:
            raise SettingError("max_share", max_share, "must be at least 0, which means never, and at most 1")
        if not min_minutes >= 0:
            raise SettingError("min_minutes", min_minutes, "must be at least 0")
        self.max_share, self.min_minutes = max_share, min_minutes
        self._seconds = 0.0  # of training since the last validation, before an interruption
        self._batches = 0  # of training since the last validation
        self._cost: float | None = None  # seconds of the last validation
        self._start: float | None = None
        self._validation_start = 0.0
        self._usual: dict[str, Any] = {}  # the Trainer's settings, while they are replaced to force a validation

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Restore the Trainer's settings."""
        self._restore(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Make the Trainer validate after this batch if one is due or training ends."""
        self._batches += 1
        if trainer.enable_validation and (self._is_end(trainer) or self._is_due(trainer)):
            # With these, Lightning validates after this batch.
            forced = {
                "check_val_every_n_epoch": 1,
                "val_check_batch": trainer.fit_loop.batch_idx + 1,
                "_val_check_time_interval": None,
            }
            self._usual = {name: getattr(trainer, name) for name in forced}
            vars(trainer).update(forced)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the Trainer's settings; time the validation."""
        self._restore(trainer)
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the validation's duration, and restart the clock."""
        now = time.monotonic()
        self._start, self._cost = now, now - self._validation_start
        self._seconds, self._batches = 0.0, 0

    def _restore(self, trainer: L.Trainer) -> None:
        vars(trainer).update(self._usual)
        self._usual = {}

    def _is_end(self, trainer: L.Trainer) -> bool:
        """Return whether this is the last batch of the training."""
        if _left(trainer.max_steps, trainer.global_step) == 0 or (
            trainer.should_stop and trainer.fit_loop._can_stop_early
        ):
            return True
        is_last = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        return is_last and _left(trainer.max_epochs, trainer.current_epoch + 1) == 0

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Return whether a validation within the epoch is due; the same in all processes."""
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
        """Return the time and batches since the last validation, and its duration."""
        return {"seconds": self._elapsed(), "batches": self._batches, "cost": self._cost}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._seconds, self._batches, self._cost = (state_dict[name] for name in ("seconds", "batches", "cost"))


def _left(limit: int | None, done: int) -> float:
    """Return what remains of a limit; -1 and None mean unlimited in Lightning."""
    return float("inf") if limit in (None, -1) else max(0, limit - done)
