"""Checkpoints: the best and the last."""

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from minillm.errors import SettingError
from minillm.files import make_folder, written_whole

log = logging.getLogger(__name__)


@runtime_checkable
class Rewindable(Protocol):
    """A logger that can remove what an interrupted run logged after its last checkpoint."""

    def rewind(self, step: int) -> None:
        """Remove what was logged from this step on."""


class Checkpointing(ModelCheckpoint):
    """Keeps ``best.ckpt``, from the validation with the lowest ``val/loss``, and ``last.ckpt``, to resume from.

    A checkpoint's counts of epochs and batches always match its weights, see `settled`. It is written after the step's
    metrics are logged, so the log is complete up to that step; a resumed run removes later rows.

    Args:
        dirpath: folder of the checkpoints.
        monitor: the metric that determines the best checkpoint.
        mode: ``min``: lower is better; ``max``: higher is better.
        every_n_train_steps: steps between two ``last.ckpt`` within an epoch; None: not by steps. One is always written
            at an epoch's end.
        every_minutes: minutes between two ``last.ckpt``; None: not by time.

    Raises:
        SettingError: every_n_train_steps under 1, every_minutes not over 0, or a folder that cannot be written.
    """

    def __init__(
        self,
        dirpath: str,
        monitor: str = "val/loss",
        mode: str = "min",
        every_n_train_steps: int | None = None,
        every_minutes: float | None = 5.0,
    ) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise SettingError("every_n_train_steps", every_n_train_steps, "must be at least 1, or null")
        if every_minutes is not None and not every_minutes > 0:
            raise SettingError("every_minutes", every_minutes, "must be over 0, such as 5, or null")
        make_folder("dirpath", dirpath)
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.last_every_n_train_steps, self.every_minutes = every_n_train_steps, every_minutes
        self._between_steps = False
        self._step = 0  # number of steps at the start of the last batch
        self._saved_at = 0.0

    def write_last(self, trainer: L.Trainer) -> bool:
        """Write ``last.ckpt`` of the current state if possible; return whether it was.

        Within a step or a validation it is not possible, since training could not resume exactly; the existing
        ``last.ckpt`` is kept. Other callbacks should call it in ``on_train_batch_start``.
        """
        if not self._between_steps or trainer.state.fn != TrainerFn.FITTING or not trainer.training:
            return False
        assert self.dirpath is not None
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
        self._saved_at = time.monotonic()
        return True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and make the loggers continue after the last step."""
        super().on_train_start(trainer, pl_module)
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        # Resuming at a validation, Lightning skips it in an iteration that its loggers count as a step.
        skips_validation = loop.restarting and loop._should_check_val_fx(fetcher)
        loop._batches_that_stepped = trainer.global_step - skips_validation
        self._between_steps, self._step, self._saved_at = False, trainer.global_step, time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Write ``last.ckpt`` of the step before if it is due: by now its metrics are logged, and it is validated.

        With accumulated gradients a step takes several batches.
        """
        step = trainer.global_step
        if step > self._step and self._is_due(trainer, step):
            self.write_last(trainer)
        self._step, self._between_steps = step, False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that the batch is complete: Lightning calls checkpoint callbacks last."""
        self._between_steps = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``last.ckpt`` after the epoch's validation, or where training ended within the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self._step, self._between_steps = trainer.global_step, True
        self.write_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch that ended early as the current one, as its checkpoint does."""
        if counts := settled(trainer):
            trainer.fit_loop.epoch_progress.load_state_dict(counts["epoch_progress"])

    def _is_due(self, trainer: L.Trainer, step: int) -> bool:
        if self.last_every_n_train_steps and step % self.last_every_n_train_steps == 0:
            return True
        if self.every_minutes is None:
            return False
        is_time = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(is_time, all=False)  # clocks differ between processes

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the counts to resume from into the checkpoint."""
        if trainer.state.fn == TrainerFn.FITTING:
            checkpoint["loops"]["fit_loop"].update(settled(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume: rewind the loggers to the checkpoint, and copy the best checkpoint so far into this run's folder."""
        states = checkpoint["callbacks"]
        if trainer.state.fn != TrainerFn.FITTING:  # a test: keep this callback's state
            states[self.state_key] = self.state_dict()
            return
        for logger in trainer.loggers:
            if isinstance(logger, Rewindable):
                logger.rewind(checkpoint["global_step"])
        if self.state_key in states:
            assert trainer.ckpt_path is not None
            states[self.state_key] = self._with_best_here(states[self.state_key], Path(trainer.ckpt_path).parent)

    def _with_best_here(self, state: dict[str, Any], beside: Path) -> dict[str, Any]:
        """Copy the best checkpoint so far into this run's folder; return this callback's state with the new path.

        Args:
            state: of this callback, from the checkpoint to resume from.
            beside: the folder of that checkpoint, which may have been moved.
        """
        assert self.dirpath is not None
        state = {**state, "dirpath": self.dirpath, "last_model_path": ""}
        recorded = Path(state["best_model_path"])
        here = Path(self.dirpath) / recorded.name
        found = next((path for path in (beside / recorded.name, recorded) if path.is_file()), None)
        if found is None:
            if recorded.name:
                log.warning("%s does not exist any more: the best checkpoint will be one of this run's", recorded)
            worst = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
            nothing = {"best_model_path": "", "kth_best_model_path": "", "best_k_models": {}}
            return {**state, **nothing, "best_model_score": None, "kth_value": worst}
        if found.resolve() != here.resolve():
            _copy(found, here)
        score = state["best_model_score"]
        paths = {"best_model_path": str(here), "kth_best_model_path": str(here), "best_k_models": {str(here): score}}
        return {**state, **paths}


def begin_log(loggers: Iterable[Logger]) -> None:
    """Empty the logs of a run that was killed before its first checkpoint and starts again in its folder."""
    for logger in loggers:
        if isinstance(logger, Rewindable):
            logger.rewind(0)


def settled(trainer: L.Trainer) -> dict[str, Any]:
    """Return Lightning's counts of epochs and batches with which training resumes right after the last step.

    Lightning saves its counts in an intermediate state, and later guesses in which hook they were saved. The guess is
    wrong for a checkpoint of a resumed run, of a batch within an accumulated step, or of an epoch that a limit of steps
    or time ended early. In the counts returned here, a batch counts once its gradient is in the weights, and an epoch
    once it has had all its batches and its ``on_train_epoch_end``; all of Lightning's other counts are consistent.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    begun, done = epochs.started, batches.current.processed
    if not begun:
        return {}
    at_end = done == batches.current.ready and (batches.is_last_batch or done == trainer.num_training_batches)
    waiting = 0 if at_end else done % trainer.accumulate_grad_batches  # their gradients are not in the checkpoint
    # In on_train_epoch_start and on_train_epoch_end, ready and processed are one ahead of the other counts.
    # An epoch without a batch since a resume counts as the one before.
    is_over = epochs.ready > begun or ((at_end or not done) and epochs.processed == begun)
    finished = begun if is_over else begun - 1
    epoch = {"ready": begun, "started": begun, "processed": finished, "completed": finished}
    return {
        "epoch_progress": {"total": epoch, "current": dict(epoch)},
        "epoch_loop.state_dict": {"_batches_that_stepped": trainer.global_step},
        "epoch_loop.batch_progress": {
            "total": _all(batches.total.processed - waiting),
            "current": _all(0 if is_over else done - waiting),
            "is_last_batch": at_end and not is_over,
        },
        "epoch_loop.val_loop.batch_progress": {"total": _all(0), "current": _all(0), "is_last_batch": False},
    }


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)


@rank_zero_only
def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)
