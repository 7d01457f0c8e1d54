"""Checkpoints: the best one and the last one."""

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
    """A logger that can forget what an interrupted run logged after its last checkpoint."""

    def rewind(self, step: int) -> None:
        """Forget what was logged of this step and of later ones."""


class Checkpointing(ModelCheckpoint):
    """Keeps ``best.ckpt``, of the validation with the lowest ``val/loss``, and ``last.ckpt``, to resume from.

    Whenever it is written, a checkpoint says how many batches made the weights that it holds, see `settled`. It is
    written once the step's figures are logged: what the log holds of earlier steps is therefore complete, and what it
    holds of later ones is taken out when training goes on from the checkpoint.

    Args:
        dirpath: folder of the checkpoints.
        monitor: the figure that decides which is best; the lower the better unless ``mode`` is max.
        mode: ``min`` or ``max``.
        every_n_train_steps: write ``last.ckpt`` so often within an epoch, besides at its end; None: not by steps.
        every_minutes: write it also after so many minutes, at the end of the step; None: not by the clock.

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
        self._step = 0  # how many steps there were at the last batch's start
        self._saved_at = 0.0

    def write_last(self, trainer: L.Trainer) -> bool:
        """Write ``last.ckpt`` of the training as it stands; return whether that could be done.

        It cannot within a step or a validation: from there training could not go on as if nothing had happened, and
        the ``last.ckpt`` that is there stays. A callback does best to ask in ``on_train_batch_start``.
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
        """Start the clock, and have the loggers count on from the last step."""
        super().on_train_start(trainer, pl_module)
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        # Going on from where a validation was, Lightning passes over it in a round that its loggers take for a step.
        passes_over = loop.restarting and loop._should_check_val_fx(fetcher)
        loop._batches_that_stepped = trainer.global_step - passes_over
        self._between_steps, self._step, self._saved_at = False, trainer.global_step, time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Write ``last.ckpt`` of the step before, if it is time: it has been logged by now, and validated if need be.

        With accumulated gradients a step takes several batches, and most of them complete none.
        """
        step = trainer.global_step
        if step > self._step and self._is_due(trainer, step):
            self.write_last(trainer)
        self._step, self._between_steps = step, False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Know that a batch is done with: callbacks that keep checkpoints come last."""
        self._between_steps = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``last.ckpt`` after the epoch's validation, or wherever training ended in it."""
        super().on_train_epoch_end(trainer, pl_module)
        self._step, self._between_steps = trainer.global_step, True
        self.write_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch that was cut short as the one that training is in, as its checkpoint does."""
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
        """Let the checkpoint say from where training goes on."""
        if trainer.state.fn == TrainerFn.FITTING:
            checkpoint["loops"]["fit_loop"].update(settled(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up where a checkpoint left off: the log ends there, and the best checkpoint so far is in this folder."""
        states = checkpoint["callbacks"]
        if trainer.state.fn != TrainerFn.FITTING:  # the checkpoint is tested, and what is known here stays
            states[self.state_key] = self.state_dict()
            return
        for logger in trainer.loggers:
            if isinstance(logger, Rewindable):
                logger.rewind(checkpoint["global_step"])
        if self.state_key in states:
            assert trainer.ckpt_path is not None
            states[self.state_key] = self._with_best_here(states[self.state_key], Path(trainer.ckpt_path).parent)

    def _with_best_here(self, state: dict[str, Any], beside: Path) -> dict[str, Any]:
        """Have the best checkpoint so far in this run's folder; return the state that says so.

        Args:
            state: of this callback, in the checkpoint that training goes on from.
            beside: the folder of that checkpoint, which may have been moved since.
        """
        assert self.dirpath is not None
        state = {**state, "dirpath": self.dirpath, "last_model_path": ""}
        recorded = Path(state["best_model_path"])
        here = Path(self.dirpath) / recorded.name
        found = next((path for path in (beside / recorded.name, recorded) if path.is_file()), None)
        if found is None:
            if recorded.name:
                log.warning("%s is gone: the best checkpoint will be that of the validations to come", recorded)
            worst = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
            nothing = {"best_model_path": "", "kth_best_model_path": "", "best_k_models": {}}
            return {**state, **nothing, "best_model_score": None, "kth_value": worst}
        if found.resolve() != here.resolve():
            _copy(found, here)
        score = state["best_model_score"]
        paths = {"best_model_path": str(here), "kth_best_model_path": str(here), "best_k_models": {str(here): score}}
        return {**state, **paths}


def begin_log(loggers: Iterable[Logger]) -> None:
    """Forget what a run has logged that was killed before its first checkpoint, and now begins anew in its folder."""
    for logger in loggers:
        if isinstance(logger, Rewindable):
            logger.rewind(0)


def settled(trainer: L.Trainer) -> dict[str, Any]:
    """Return Lightning's counts of epochs and batches such that training goes on from them right after the last step.

    Lightning saves its counts as they happen to be, half advanced within the hook that saves, and guesses from them at
    what point that was. The guess is right once, for the hooks that it knows: a checkpoint of a run that was itself
    resumed, of a batch within an accumulated step, or of an epoch that a limit of steps or time cut short is taken for
    another point. Here a batch counts once its gradient is in the weights, and an epoch once it has had all its
    batches and its ``on_train_epoch_end``; all that Lightning counts on the way there agrees.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    begun, done = epochs.started, batches.current.processed
    if not begun:
        return {}
    at_end = done == batches.current.ready and (batches.is_last_batch or done == trainer.num_training_batches)
    waiting = 0 if at_end else done % trainer.accumulate_grad_batches  # in gradients, which no checkpoint holds
    # Within on_train_epoch_start and on_train_epoch_end, ready and processed are one ahead of the others.
    # An epoch that has had no batch since a resume is the one before the first that follows.
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
