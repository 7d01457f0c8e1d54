"""TensorBoard's HParams tab: settings and final metrics."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from minillm.configuration import flat

# Groups whose class is a choice.
CLASS_CHOICES = ("data.source", "tokenizer", "model", "optimizer", "scheduler")
FOLDERS = ("data.data_dir", "trainer.default_root_dir")


def log_hyperparameters(loggers: Iterable[Logger], config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Log a run's settings and final metrics, at its end.

    Metrics are logged under ``final/``: under their own names they would add a point to the curves. A group's class is
    logged under the group's name, such as ``model``: ``MiniGPT``.

    Args:
        loggers: only TensorBoard's are used.
        config: the run's configuration, as plain values.
        metrics: the final metrics by name.
    """
    aside = ("paths", "callbacks", "logger", "evaluation")
    leaves = flat({key: value for key, value in config.items() if key not in aside})
    settings = {
        group: leaves.pop(f"{group}._target_").rpartition(".")[2]
        for group in CLASS_CHOICES
        if f"{group}._target_" in leaves
    }
    settings |= {
        name: value
        for name, value in leaves.items()
        if value is not None and name not in FOLDERS and not name.endswith(("._target_", "._partial_"))
    }
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, final)
            logger.experiment.flush()  # no later call writes it
