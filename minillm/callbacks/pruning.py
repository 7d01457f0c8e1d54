"""Pruning of unpromising runs of a search."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from minillm.errors import SettingError
from minillm.files import written_whole
from minillm.study import open_storage

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)

PRUNED = "pruned.txt"


class Pruning(L.Callback):
    """Reports a metric to an Optuna study at each validation; stops the training when the study's pruner says so.

    A pruned run keeps its files, and ``pruned.txt`` says why it ended; the study marks its trial as pruned.

    Args:
        dirpath: the run's folder.
        monitor: the metric.
        storage: the study's storage, see `minillm.study.open_storage`.
        study_name: the study's name.
        trial: the run's number in the study.
        pruner: decides; its steps are validations, from 1.

    Raises:
        SettingError: there is no such study.
    """

    def __init__(
        self, dirpath: str, monitor: str, storage: str, study_name: str, trial: int, pruner: "BasePruner"
    ) -> None:
        import optuna  # an extra

        self.dirpath, self.monitor, self.trial = Path(dirpath), monitor, trial
        try:
            if "://" not in storage and not Path(storage).is_file():
                raise FileNotFoundError(storage)  # opening a journal would create it
            self.study = optuna.load_study(study_name=study_name, storage=open_storage(storage), pruner=pruner)
        except Exception as error:  # whatever the database's driver raises
            raise SettingError("storage", storage, "has no such study; start a search with --multirun") from error
        self.validations = 0
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and stop if the run is pruned.

        Raises:
            SettingError: the validation has no such metric.
        """
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise SettingError("optimized_metric", self.monitor, f"is not a validation metric; there are {known}")
        self.validations += 1
        pruned = trainer.is_global_zero and self._report(float(trainer.callback_metrics[self.monitor]))
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            self.pruned = trainer.should_stop = True

    def _report(self, value: float) -> bool:
        """Report the metric; if the run is pruned, note that in the study and in the run's folder."""
        import optuna
        from optuna.trial import TrialState

        trial = optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[self.trial]._trial_id)
        trial.report(value, self.validations)
        if not trial.should_prune():
            return False
        reason = f"pruned after validation {self.validations}: {self.monitor} {value:.4f}"
        log.info(reason)
        with written_whole(self.dirpath / PRUNED) as file:
            file.write_text(reason + "\n", encoding="utf-8")
        self.study.tell(self.trial, state=TrialState.PRUNED)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations, from which a resumed run continues to count."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.validations = state_dict["validations"]
