"""TensorBoard's HParams tab: what was set, beside what came of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from minillm.configuration import flat


def log_hyperparameters(loggers: Iterable[Logger], config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write a run's settings and final figures, once it is done.

    The figures stand under ``final/``: under their own names they would add a false point to the curves.

    Args:
        loggers: those of TensorBoard among them are written to.
        config: the run's configuration, as plain values.
        metrics: the final figures by logged name.
    """
    aside = ("paths", "callbacks", "logger", "evaluation")
    settings = flat({key: value for key, value in config.items() if key not in aside})
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, final)
            logger.experiment.flush()  # nothing is written after it
