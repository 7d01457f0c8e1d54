"""Ctrl-C and SIGTERM while a network trains."""

import os
import signal
from typing import Any, NoReturn

import lightning as L

from minillm.callbacks.checkpointing import Checkpointing
from minillm.launch import first_has_ended, is_further_process
from minillm.signals import Interrupted, signals


class Interruption(L.Callback):
    """Ends the training when a signal asks for it, with ``last.ckpt`` of the step that it came in.

    The running step ends first, and where gradients are accumulated the optimizer's step that they are for: so nothing
    that was computed is lost, and nothing half-done is kept. In validation and test it ends at once. Of several
    processes all end at the same step, whichever of them had the signal; in validation the first one ends, and then
    the others.

    It goes after all callbacks that have a state.
    """

    def __init__(self) -> None:
        self.step, self.trains = 0, False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let Lightning not put its own answers in place, which it would right before the training starts."""
        trainer._signal_connector.register_signal_handlers = signals.install  # type: ignore[method-assign]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait from here on; Lightning's own answer to a signal would end a training without its checkpoint."""
        signals.install()
        signals.helpers = lambda: getattr(trainer.strategy.launcher, "procs", ())
        self.step = trainer.global_step
        self.trains = signals.waits = True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """End, if a signal came, once an optimizer's step is complete and logged."""
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
        """End at once from here on."""
        self._wait_no_more()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait again."""
        signals.waits = self.trains

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once from here on: what test and evaluation compute is computed again."""
        self.trains = False
        self._wait_no_more()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer here too, instead of Lightning."""
        signals.install()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave no process that waits for this one."""
        self.trains = signals.waits = False
        if isinstance(exception, Interrupted):
            signals.end_helpers()
        elif is_further_process() and first_has_ended():
            os._exit(0)  # what was raised here is that it no longer answers

    def _wait_no_more(self) -> None:
        signals.waits = False
        if signals.pending is not None and not is_further_process():
            self._end()

    @staticmethod
    def _end() -> NoReturn:
        # The signal may have come to another one of several processes.
        raise signals.end(signal.SIGTERM if signals.pending is None else signals.pending)
