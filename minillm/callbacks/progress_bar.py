"""A progress bar on a terminal, and a log line per validation."""

import contextlib
import logging
import math
import multiprocessing
import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minillm.clock import clock_of

log = logging.getLogger(__name__)

LOG_PREFIX = len("00:00:00 INFO ")  # see conf/hydra/train.yaml
REFRESHES_PER_SECOND = 4


class ProgressBar(LightningProgressBar):
    """A bar on the terminal, and a log line for each validation.

    The line has the most important figures that fit into the terminal's width: epoch, validation bits per byte, time
    left of the training, validation loss, training loss, tokens per second, and model FLOPs utilization. Without a
    terminal it has all. Epochs count from 1.

    The time left is estimated from the remaining steps and the speed so far, with validations, or from the remaining
    limit of time or tokens if that is less; early stopping is not foreseen.

    While the bar is shown, log lines appear above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self._is_enabled = True
        self._bar: Progress | None = None
        self._moved: list[tuple[Any, Any]] = []
        self._start, self._first_step = 0.0, 0

    def disable(self) -> None:
        """Hide the bar."""
        self._is_enabled = False
        self._close()

    def enable(self) -> None:
        """Show the bar again."""
        self._is_enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bar.console if self._bar else self.console).print(*args)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Draw no bar in a child process: several would overwrite each other on the terminal."""
        super().setup(trainer, pl_module, stage)
        if multiprocessing.current_process().name != "MainProcess":
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and show the bar."""
        self._start, self._first_step = time.perf_counter(), trainer.global_step
        self._open("training")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's bar, where a run resumed within the epoch continues."""
        self._show(_epoch(trainer), trainer.fit_loop.batch_idx + 1, self.total_train_batches)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._show(_epoch(trainer), batch_idx + 1, self.total_train_batches, self._beside(trainer))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the validation's bar."""
        if self._bar is None and not trainer.sanity_checking and not trainer.training:
            self._open("validation")
        self._show("validation", 0, self._evaluation_batches(trainer))

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._show("validation", args[3] + 1, self._evaluation_batches(trainer), self._beside(trainer))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation's line."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        log.info("%s", self.line(trainer, self._width()))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._open("test")

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._show("test", args[3] + 1, sum(trainer.num_test_batches))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._close()

    def line(self, trainer: L.Trainer, width: int | None = None) -> str:
        """Return a validation's line.

        Args:
            trainer: has the metrics.
            width: maximum number of characters; None: unlimited.
        """
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # In the order of the line; 0 is the most important.
        fields: list[tuple[int, str]] = []
        for importance, name, form in (
            (0, "val/bits_per_byte", "val {:.3f} bits/byte"),
            (2, "val/loss", "loss {:.3f}"),
            (3, "train/loss", "train {:.3f}"),
            (4, "train/tokens_per_second", "{:,.0f} tokens/s"),
            (5, "train/mfu", "{:.0%} of peak"),
        ):
            if name in metrics:
                fields.append((importance, form.format(metrics[name])))
        if left := self._left(trainer):
            fields.append((1, f"{left} left"))
        head = _epoch(trainer)
        within = self.total_train_batches
        if math.isfinite(within) and 0 < trainer.fit_loop.batch_idx + 1 < within:
            head += f" at {(trainer.fit_loop.batch_idx + 1) / within:.0%}"
        for kept in range(len(fields), 0, -1):
            chosen = sorted(importance for importance, _ in fields)[:kept]
            text = f"{head}: {', '.join(field for importance, field in fields if importance in chosen)}"
            if width is None or len(text) <= width:
                return text
        return head

    def _left(self, trainer: L.Trainer) -> str | None:
        """Return the time left of the whole training; None: unknown."""
        done = trainer.global_step - self._first_step
        seconds = math.inf
        steps = trainer.estimated_stepping_batches
        if done > 0 and math.isfinite(steps):
            seconds = max(0, steps - trainer.global_step) * (time.perf_counter() - self._start) / done
        if (clock := clock_of(trainer)) is not None and (remaining := clock.remaining()) is not None:
            seconds = min(seconds, remaining)
        return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else None

    def _beside(self, trainer: L.Trainer) -> str:
        """Return the text after the bar: validation bits per byte, speed and time left."""
        metrics = trainer.callback_metrics
        parts = []
        if "val/bits_per_byte" in metrics:
            parts.append(f"val {float(metrics['val/bits_per_byte']):.3f} bits/byte")
        if "train/tokens_per_second" in metrics and self.console.width >= 100:
            parts.append(f"{float(metrics['train/tokens_per_second']):,.0f} tokens/s")
        if left := self._left(trainer):
            parts.append(f"{left} left")
        return ", ".join(parts)

    def _width(self) -> int | None:
        return self.console.width - LOG_PREFIX if self.console.is_terminal else None

    @staticmethod
    def _evaluation_batches(trainer: L.Trainer) -> float:
        batches = trainer.num_val_batches
        return sum(batches) if isinstance(batches, list) else batches

    def _open(self, description: str) -> None:
        """Show a bar, and write log lines above it."""
        if not (self._is_enabled and self.console.is_terminal) or self._bar is not None:
            return
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()
        stream = sys.stderr
        self._bar = Progress(
            *columns,
            TextColumn("{task.fields[beside]}"),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            expand=True,
        )
        self._bar.add_task(description, total=None, beside="")
        self._bar.start()
        # rich replaces sys.stderr, but the log's handlers still have the old stream.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                self._moved.append((handler, stream))
                handler.setStream(sys.stderr)

    def _close(self) -> None:
        if self._bar is None:
            return
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        bar, self._bar = self._bar, None
        with contextlib.suppress(OSError):  # the terminal is gone
            bar.stop()

    def _show(self, description: str, completed: int, total: float, beside: str | None = None) -> None:
        if self._bar is None:
            return
        fields: dict[str, Any] = {} if beside is None else {"beside": beside}
        whole = int(total) if math.isfinite(total) else None
        self._bar.update(self._bar.task_ids[0], description=description, completed=completed, total=whole, **fields)


def _epoch(trainer: L.Trainer) -> str:
    """Return the current epoch, counted from 1, and the number of epochs."""
    last = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")
