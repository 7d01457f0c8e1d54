"""Runs of a search that are not worth their time."""

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
    """Reports a figure of each validation to an Optuna study; ends the training when the study's pruner gives it up.

    A pruned run keeps what it has written, and ``pruned.txt`` says why it ended; the study knows it as pruned.

    Args:
        dirpath: the run's folder.
        monitor: the figure.
        storage: the study's storage, see `minillm.study.open_storage`.
        study_name: its name there.
        trial: the run's number in it.
        pruner: decides; it counts validations, from 1.

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
                raise FileNotFoundError(storage)  # opening a journal would make it
            self.study = optuna.load_study(study_name=study_name, storage=open_storage(storage), pruner=pruner)
        except Exception as error:  # whatever the database's driver raises
            raise SettingError("storage", storage, "holds no study; a search is started with --multirun") from error
        self.validations = 0
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and ask whether to go on.

        Raises:
            SettingError: the validation has no such figure.
        """
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise SettingError("optimized_metric", self.monitor, f"is no figure of a validation; there are {known}")
        self.validations += 1
        pruned = trainer.is_global_zero and self._report(float(trainer.callback_metrics[self.monitor]))
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            self.pruned = trainer.should_stop = True

    def _report(self, value: float) -> bool:
        """Report the figure; tell the study and the run's folder if that was the end."""
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
        """Return how many validations there were: a resumed run counts on."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the count."""
        self.validations = state_dict["validations"]
