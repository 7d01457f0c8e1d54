"""Logged figures in one CSV file."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from minillm.files import written_whole

log = logging.getLogger(__name__)


class MetricsCSV(CSVLogger):
    """Writes ``metrics.csv`` into a folder; a resumed run adds its rows to those of the steps before it.

    What a killed run logged after its last checkpoint, the resumed one logs again: such rows are taken out (`rewind`).
    So are damaged ones, with a warning.

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

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record a row; epochs are counted from 1."""
        super().log_metrics(epochs_from_1(metrics), step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Take out the rows of this step and of later ones."""
        self.experiment.rewind(step)


def epochs_from_1(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures in which Lightning's ``epoch``, which begins at 0, is counted as people do."""
    return {name: value + 1 if name == "epoch" else value for name, value in metrics.items()}


class _Appending(ExperimentWriter):
    """Lightning's writer, which would delete the file that is there; this one keeps the steps before its own."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._begun = False

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                self.metrics_keys = file.readline().strip().split(",")

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record a row; a run that did not rewind takes out what another one left of its first step and later ones."""
        if not self._begun and step is not None:
            self.rewind(step)
        super().log_metrics(metrics_dict, step)

    def rewind(self, step: int) -> None:
        """Take out the rows of this step and of later ones, and the half row that a killed process may have left."""
        self._begun = True
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]  # a process that was killed may have left half a line
        if "step" not in self.metrics_keys:
            if whole:
                aside = path.with_name("metrics.damaged.csv")
                log.warning("%s is damaged; it is set aside as %s, and a new one is begun", path, aside.name)
                path.replace(aside)
            self.metrics_keys = []
            return
        rows = list(csv.DictReader(whole.splitlines()))
        readable = [row for row in rows if _is_readable(row)]
        if len(readable) < len(rows):
            log.warning("%s: %d damaged lines are left out", path, len(rows) - len(readable))
        kept = [row for row in readable if int(row["step"]) < step]
        if len(kept) < len(rows) or whole != text:
            self._write(kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Add columns; Lightning's way leaves an empty file to a process that is killed meanwhile."""
        with Path(self.metrics_file_path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        path = Path(self.metrics_file_path)
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def _is_readable(row: dict[str, Any]) -> bool:
    """Return whether a row has as many cells as there are columns, each empty or a number."""
    try:
        int(row["step"])
        for cell in row.values():
            if cell != "":
                float(cell)  # None where cells are missing, a list where there are too many
    except (TypeError, ValueError):
        return False
    return True
