"""How much of a training is done, by the limits that are no number of steps: its time and its tokens."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from minillm.tokenization import PAD


class TrainingClock(Timer):
    """Counts the time and the tokens of a training, and ends it at the first step that reaches a limit of either.

    Both counts are in the checkpoint: a resumed run counts on. Tokens are targets, over all processes, padding not
    counted. Schedules ask `share` where the training stands: it is the same in all processes.

    Args:
        max_time: how long, validations within included; None: no limit.
        max_tokens: on how many tokens; None: no limit.
    """

    def __init__(self, max_time: timedelta | None = None, max_tokens: int | None = None) -> None:
        super().__init__(max_time, verbose=False)
        self.max_tokens = max_tokens
        self._tokens: int | Tensor = 0  # a tensor where nobody has to know the number at each step
        self._pending: Tensor | None = None
        self._share = 0.0

    @property
    def state_key(self) -> str:
        """Where a checkpoint has the state: under the name that it had before there was a limit of tokens."""
        return Timer.__qualname__

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit of time or of tokens."""
        return self._duration is not None or self.max_tokens is not None

    @property
    def tokens(self) -> int:
        """The tokens that the training has had."""
        return int(self._tokens)

    def share(self) -> float:
        """Return the share of the training that is done by the limit that is nearer, from 0; at its last step under 1.

        It is what it was at the last gradient.
        """
        return self._share

    def remaining(self) -> float | None:
        """Return the seconds until the nearer limit ends the training, at its pace so far; None: nobody knows."""
        left = [] if self._duration is None else [max(0.0, self._duration - self.time_elapsed())]
        if self.max_tokens is not None and (had := self._by_tokens()) > 0:
            left.append(self.time_elapsed() * max(0.0, 1 - had) / had)
        return min(left, default=None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look how many tokens come; they count once they are learned from."""
        self._pending = (batch["targets"] != PAD).sum()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count, before the schedule looks at it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            if trainer.world_size > 1:
                pending = trainer.strategy.reduce(pending, reduce_op="sum")
            self._tokens = self._tokens + (pending if self.max_tokens is None else int(pending))
        if self.is_limited:
            self._share = trainer.strategy.broadcast(self._measured_share()) if self._duration else self._by_tokens()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """End the training where a limit is reached, once the gradient that is being accumulated was used."""
        if trainer.fit_loop._should_accumulate():
            return
        super().on_train_batch_end(trainer, *args, **kwargs)
        self._end_by_tokens(trainer)

    def on_fit_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """End a resumed training at once that has reached a limit."""
        super().on_fit_start(trainer, *args, **kwargs)
        self._end_by_tokens(trainer)

    def _end_by_tokens(self, trainer: L.Trainer) -> None:
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            trainer.should_stop = True

    def _by_tokens(self) -> float:
        return 0.0 if self.max_tokens is None else self.tokens / self.max_tokens

    def _measured_share(self) -> float:
        by_time = 0.0 if self._duration is None else self.time_elapsed() / self._duration
        return max(by_time, self._by_tokens())

    def state_dict(self) -> dict[str, Any]:
        """Return the time and the tokens so far."""
        return {**super().state_dict(), "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        super().load_state_dict(state_dict)
        self._tokens = int(state_dict.get("tokens", 0))
        self._share = self._measured_share()


def clock_of(trainer: L.Trainer) -> TrainingClock | None:
    """Return a trainer's clock; None: it was made without."""
    callbacks: Iterable[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, TrainingClock)), None)
