"""What is learned in a given time: whole experiments side by side, through `scripts/train.py` as users run it."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.report import Report, spread
from minillm.benchmarking.worker import run_script
from minillm.console import number_table
from minillm.errors import OutsideError, SettingError
from minillm.evaluation.language_modelling import measure
from minillm.evaluation.text import training_data
from minillm.language_model import load
from minillm.models.sizes import check_sizes
from minillm.progress import track


@dataclass(frozen=True)
class QualityOverTime:
    """Trains experiments for the same time each, and tests them on the way: bits_per_byte of the test split.

    Only the training is timed: nothing is validated meanwhile, and the weights are tested afterwards, from checkpoints.
    First the time of a step is measured, so that every schedule comes to its end.

    Args:
        experiments: overrides of `scripts/train.py` by name, such as ``[experiment=modern]``.
        common: overrides for all of them.
        seconds: of training each.
        tests: number of tests, at equal distances, the last one at the end.
        seeds: each experiment is trained with each of them.
        calibration_steps: of a first short run that measures the time of a step; its first half does not count.

    Raises:
        SettingError: nothing to train or to test, or no time.
    """

    experiments: Mapping[str, Sequence[str]]
    common: Sequence[str] = ()
    seconds: float = 180.0
    tests: int = 4
    seeds: Sequence[int] = (0, 1, 2)
    calibration_steps: int = 120

    def __post_init__(self) -> None:
        if not self.experiments:
            raise SettingError("experiments", dict(self.experiments), "names nothing to train")
        if not self.seeds:
            raise SettingError("seeds", list(self.seeds), "must name at least one, such as [0]")
        if not self.seconds > 0:
            raise SettingError("seconds", self.seconds, "must be over 0, such as 180")
        if self.calibration_steps < 2:
            raise SettingError("calibration_steps", self.calibration_steps, "must be at least 2, such as 120")
        check_sizes(tests=self.tests)

    def measure(self, session: Session) -> Report:
        """Train everything, one seed after another; return test bits per byte over time.

        Raises:
            OutsideError: a training fails; the message is its own.
        """
        half, whole = self.calibration_steps // 2, self.calibration_steps
        steps = {}
        for name in self.experiments:
            _, (middle, end) = self._run(session, name, [half, whole], "seed=0")
            steps[name] = max(1, round(self.seconds * (whole - half) / (end - middle)))
        curves: dict[str, list[dict[str, Any]]] = {name: [] for name in self.experiments}
        runs = [(seed, name) for seed in self.seeds for name in self.experiments]
        for seed, name in track(runs, "training", len(runs)):
            every = max(1, steps[name] // self.tests)
            tested = [every * number for number in range(1, self.tests + 1)]
            folder, seconds = self._run(session, name, tested, f"seed={seed}", *_checkpoints(every))
            bits = [_bits_per_byte(folder / "tests" / f"{step}.ckpt", session) for step in tested]
            curves[name].append({"seed": seed, "steps": tested, "seconds": seconds, "bits_per_byte": bits})
        return self._report(curves)

    def _run(self, session: Session, name: str, steps: Sequence[int], *overrides: str) -> tuple[Path, list[float]]:
        """Train until the last of some steps; return the run's folder, and the seconds of training at each."""
        folder = session.new_path("quality")
        where = (f"hydra.run.dir={folder}", f"paths.data_dir={session.config.paths.data_dir}", "evaluation=none")
        endless = ("trainer.max_epochs=1000000", "trainer.limit_val_batches=0", f"trainer.max_steps={steps[-1]}")
        log = f"trainer.log_every_n_steps={min(10, *steps)}"
        try:
            run_script("train", *self.common, *self.experiments[name], *overrides, *where, *endless, log)
        except OutsideError as error:
            raise OutsideError(f"{name}: {error}") from error
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/seconds")]
        logged, seconds = [int(row["step"]) + 1 for row in rows], [float(row["train/seconds"]) for row in rows]
        # Between two logged steps, and after the last one, time passes evenly.
        after = seconds[-1] / logged[-1]
        return folder, [float(np.interp(step, logged, seconds)) + max(0, step - logged[-1]) * after for step in steps]

    def _report(self, curves: Mapping[str, list[dict[str, Any]]]) -> Report:
        shares = [f"{number / self.tests:.0%}" for number in range(1, self.tests + 1)]
        title = f"Quality: test bits per byte over {self.seconds:g} s of training, mean ± standard deviation"
        table = number_table(title, "experiment", *shares, "seconds", "steps", "seeds")
        for name, seeds in curves.items():
            bits = [_mean(test, ".3f") for test in zip(*(curve["bits_per_byte"] for curve in seeds), strict=True)]
            seconds = _mean([curve["seconds"][-1] for curve in seeds], ".0f")
            table.add_row(name, *bits, seconds, str(seeds[0]["steps"][-1]), str(len(seeds)))
        bars = {name: spread([curve["bits_per_byte"][-1] for curve in seeds]) for name, seeds in curves.items()}
        figures = {"seconds": float(self.seconds), "curves": curves}
        return Report(figures, table, {f"test bits per byte after {self.seconds:g} s": bars})


def _checkpoints(every: int) -> list[str]:
    """Return overrides that keep the weights every so many steps, in the run's folder ``tests``."""
    arguments = {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath": "${paths.output_dir}/tests",
        "filename": "'{step}'",
        "auto_insert_metric_name": "false",
        "every_n_train_steps": every,
        "save_top_k": -1,
    }
    return [f"+callbacks.tests.{name}={value}" for name, value in arguments.items()]


def _mean(values: Sequence[float], form: str) -> str:
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"


def _bits_per_byte(checkpoint: Path, session: Session) -> float:
    model = load(checkpoint, session.device)
    data = training_data(model, session.config.paths.data_dir)
    figures = measure(model.network, data.splits["test"], model.max_length, device=session.device).figures
    return figures["bits_per_byte"]
