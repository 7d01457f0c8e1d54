"""Ctrl-C and SIGTERM during training."""

import os
import signal
from typing import Any, NoReturn

import lightning as L

from minillm.callbacks.checkpointing import Checkpointing
from minillm.launch import first_has_ended, is_further_process
from minillm.signals import Interrupted, signals


class Interruption(L.Callback):
    """Ends the training on a signal, with ``last.ckpt`` of the current step.

    It finishes the optimizer step first, with all its accumulated gradients, so that no computation is lost. In
    validation and test it ends at once. Several processes all end at the same step, whichever received the signal; in
    validation, the first process ends, and then the others.

    It must come after all callbacks that have a state.
    """

    def __init__(self) -> None:
        self.step, self.trains = 0, False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep Lightning from installing its signal handlers, which it does right before training starts."""
        trainer._signal_connector.register_signal_handlers = signals.install  # type: ignore[method-assign]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on, signals wait for the end of a step; Lightning's handlers would end without a checkpoint."""
        signals.install()
        signals.helpers = lambda: getattr(trainer.strategy.launcher, "procs", ())
        self.step = trainer.global_step
        self.trains = signals.waits = True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """If there was a signal, end once an optimizer step is complete and logged."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        stops = signals.pending is not None
        if trainer.world_size > 1:
            stops = trainer.strategy.reduce_boolean_decision(stops, all=False)
        if stops:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpointing):
                    callback.write_last(trainer)
            self._end()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on, a signal ends the program at once."""
        self._wait_no_more()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on, signals wait for the end of a step again."""
        signals.waits = self.trains

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on, a signal ends the program at once: test and evaluation can be repeated."""
        self.trains = False
        self._wait_no_more()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's signal handlers."""
        signals.install()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the processes that wait for this one."""
        self.trains = signals.waits = False
        if isinstance(exception, Interrupted):
            signals.end_helpers()
        elif is_further_process() and first_has_ended():
            os._exit(0)  # the exception only says that the first process does not answer

    def _wait_no_more(self) -> None:
        signals.waits = False
        if signals.pending is not None and not is_further_process():
            self._end()

    @staticmethod
    def _end() -> NoReturn:
        # Another process may have received the signal.
        raise signals.end(signal.SIGTERM if signals.pending is None else signals.pending)
