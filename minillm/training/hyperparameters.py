"""TensorBoard's HParams tab: what was set, beside what came of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from minillm.configuration import flat

# Groups whose choice of a class is a setting; the others have one class.
CHOSEN = ("data.source", "tokenizer", "model", "optimizer", "scheduler")
# Folders of the machine.
PLACES = ("data.data_dir", "trainer.default_root_dir")


def log_hyperparameters(loggers: Iterable[Logger], config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write a run's settings and final figures, once it is done.

    The figures stand under ``final/``: under their own names they would add a false point to the curves. What a group
    was chosen for stands under the group's name: ``model`` is ``MiniGPT``.

    Args:
        loggers: those of TensorBoard among them are written to.
        config: the run's configuration, as plain values.
        metrics: the final figures by logged name.
    """
    aside = ("paths", "callbacks", "logger", "evaluation")
    leaves = flat({key: value for key, value in config.items() if key not in aside})
    settings = {
        group: leaves.pop(f"{group}._target_").rpartition(".")[2] for group in CHOSEN if f"{group}._target_" in leaves
    }
    settings |= {
        name: value
        for name, value in leaves.items()
        if value is not None and name not in PLACES and not name.endswith(("._target_", "._partial_"))
    }
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, final)
            logger.experiment.flush()  # nothing is written after it
