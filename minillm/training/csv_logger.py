"""Logged metrics in one CSV file."""

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
    """Writes ``metrics.csv`` into a folder; a resumed run appends its rows.

    A resumed run logs again the steps after its checkpoint, so `rewind` removes their old rows. Damaged rows are
    removed, too, with a warning.

    Args:
        save_dir: the folder.
        flush_logs_every_n_steps: steps between two writes; it also writes at the end of each epoch.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 50) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: ``.hydra/`` has the run's configuration."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, created at its first use."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record a row; epochs are counted from 1."""
        super().log_metrics(epochs_from_1(metrics), step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Remove the rows from this step on."""
        self.experiment.rewind(step)


def epochs_from_1(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics with Lightning's ``epoch``, which starts at 0, counted from 1."""
    return {name: value + 1 if name == "epoch" else value for name, value in metrics.items()}


class _AppendingWriter(ExperimentWriter):
    """Keeps the rows of earlier steps; Lightning's writer would delete the existing file."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._is_rewound = False

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                self.metrics_keys = file.readline().strip().split(",")

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record a row; before the first one, remove an earlier run's rows from this step on."""
        if not self._is_rewound and step is not None:
            self.rewind(step)
        super().log_metrics(metrics_dict, step)

    def rewind(self, step: int) -> None:
        """Remove the rows from this step on, and an incomplete last row of a killed process."""
        self._is_rewound = True
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if "step" not in self.metrics_keys:
            if whole:
                aside = path.with_name("metrics.damaged.csv")
                log.warning("%s is damaged; it is renamed to %s, and a new one is started", path, aside.name)
                path.replace(aside)
            self.metrics_keys = []
            return
        rows = list(csv.DictReader(whole.splitlines()))
        readable = [row for row in rows if _is_readable(row)]
        if len(readable) < len(rows):
            log.warning("%s: %d damaged lines are removed", path, len(rows) - len(readable))
        kept = [row for row in readable if int(row["step"]) < step]
        if len(kept) < len(rows) or whole != text:
            self._write(kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Add columns atomically; with Lightning's method, a process killed meanwhile leaves an empty file."""
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
    """Return whether a row has one cell per column, each empty or a number."""
    try:
        int(row["step"])
        for cell in row.values():
            if cell != "":
                float(cell)  # None if cells are missing, a list if there are too many
    except (TypeError, ValueError):
        return False
    return True
