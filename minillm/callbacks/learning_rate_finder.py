"""The learning-rate range test."""

import contextlib
import io
import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch import callbacks
from matplotlib.figure import Figure

from minillm.errors import SettingError
from minillm.files import make_folder, written_whole
from minillm.training import TrainingModule

log = logging.getLogger(__name__)

SKIPPED = 10  # first values of the smoothed loss, which average only a few batches


class LearningRateFinder(callbacks.LearningRateFinder):
    """Lightning's learning-rate range test (Smith 2017): trains briefly at rising rates, then starts with the best.

    The best is where the smoothed loss falls most steeply over the logarithm of the rate. It replaces ``optimizer.lr``,
    with the same results, bit for bit, as if it had been set there. ``learning_rate.json`` and ``learning_rate.svg`` in
    the run's folder show the test. A resumed run keeps its rate.

    Args:
        dirpath: the run's folder.
        min_lr: the first rate.
        max_lr: the last rate.
        num_training_steps: optimizer steps of the test.
        early_stop_threshold: the test ends when the loss is this many times the lowest so far; None: never early.

    Raises:
        SettingError: min_lr not under max_lr, too few steps, a threshold not over 1, or a folder that cannot be
            written; when training starts: an optimizer with more than one learning rate, or a loss that does not fall
            at any rate.
    """

    def __init__(
        self,
        dirpath: str,
        min_lr: float = 1e-5,
        max_lr: float = 1.0,
        num_training_steps: int = 100,
        early_stop_threshold: float | None = 4.0,
    ) -> None:
        if not 0 < min_lr < max_lr < math.inf:
            raise SettingError("min_lr", min_lr, f"must be over 0 and under max_lr={max_lr}, a finite number")
        if num_training_steps < 20:
            raise SettingError("num_training_steps", num_training_steps, "must be at least 20, such as 100")
        if early_stop_threshold is not None and not early_stop_threshold > 1:
            raise SettingError("early_stop_threshold", early_stop_threshold, "must be over 1, such as 4, or null")
        make_folder("dirpath", dirpath)
        super().__init__(
            min_lr, max_lr, num_training_steps, early_stop_threshold=early_stop_threshold, update_attr=False
        )
        self.dirpath = Path(dirpath)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the learning rate and set it."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.ckpt_path is not None:
            return
        rates = sorted({group["initial_lr"] for group in trainer.optimizers[0].param_groups})
        if len(rates) > 1:
            shown = ", ".join(f"{rate:g}" for rate in rates)
            advice = "the optimizer has several learning rates, and only one can be found; set them yourself"
            raise SettingError("callbacks.learning_rate_finder", shown, advice)
        with _without_end(trainer), contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            self.lr_find(trainer, pl_module)  # draws its own progress bar
        if self.optimal_lr is None:  # with fast_dev_run
            return
        results = self.optimal_lr.results
        rates = results["lr"][SKIPPED:]
        # Lightning has divided the losses by the number of accumulated batches.
        losses = [loss * trainer.accumulate_grad_batches for loss in results["loss"][SKIPPED:]]
        place = steepest(rates, losses)
        if place is None:
            bounds = f"[{self._min_lr:g}, {self._max_lr:g}]"
            advice = "the loss falls at no learning rate between them; set optimizer.lr"
            raise SettingError("callbacks.learning_rate_finder", bounds, advice)
        found = rates[place]
        log.info("learning rate found: %.3g", found)
        pl_module.set_learning_rate(found)
        trainer.strategy.setup_optimizers(trainer)  # with a new schedule, since a schedule keeps its initial rates
        if trainer.is_global_zero:
            self._write(rates, losses, place)

    def _write(self, rates: list[float], losses: list[float], place: int) -> None:
        """Write the test's losses, and a plot of them."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(rates, losses)
        axes.plot(rates[place], losses[place], "o", color="tab:red", label=f"{rates[place]:.3g}")
        axes.set(xlabel="learning rate", ylabel="smoothed loss, nats per token")
        axes.legend()
        with written_whole(self.dirpath / "learning_rate.svg") as file:
            figure.savefig(file, format="svg")
        with written_whole(self.dirpath / "learning_rate.json") as file:
            found = {"found": rates[place], "lr": rates, "loss": losses}
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")


@contextlib.contextmanager
def _without_end(trainer: L.Trainer) -> Iterator[None]:
    """Give the test as many epochs as it needs."""
    epochs = trainer.fit_loop.max_epochs
    trainer.fit_loop.max_epochs = -1
    try:
        yield
    finally:
        trainer.fit_loop.max_epochs = epochs


def steepest(rates: list[float], losses: list[float]) -> int | None:
    """Return the index at which the loss falls most steeply over the logarithm of the rate; None: it never falls.

    >>> steepest([10.0 ** -n for n in (5, 4, 3, 2, 1)], [9.0, 8.9, 7.0, 6.5, 8.0])
    2

    Args:
        rates: rising.
        losses: one per rate; those that are not finite are ignored.
    """
    finite = [place for place, loss in enumerate(losses) if math.isfinite(loss)]
    if len(finite) < 2:
        return None
    logs = torch.tensor([math.log(rates[place]) for place in finite], dtype=torch.float64)
    [slopes] = torch.gradient(torch.tensor([losses[place] for place in finite], dtype=torch.float64), spacing=(logs,))
    lowest = int(slopes.argmin())
    return finite[lowest] if slopes[lowest] < 0 else None
