"""Logged figures in one CSV file."""

from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class MetricsCSV(CSVLogger):
    """Writes ``metrics.csv`` into a folder; a resumed run adds its rows to those that are there.

    Args:
        save_dir: the folder.
        flush_logs_every_n_steps: write so often; besides at each epoch's end.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 50) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: the run's configuration is kept in ``.hydra/``."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; made at first use."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Appending(self.log_dir)
        return self._experiment


class _Appending(ExperimentWriter):
    """Lightning's writer without its first act, which deletes the file that is there."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                self.metrics_keys = file.readline().strip().split(",")
