"""What is learned in a given time: whole experiments side by side, through `scripts/train.py` as users run it."""

import csv
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.display import table
from minillm.benchmarking.schema import LearningCurve, Quality
from minillm.command import CONF
from minillm.errors import OutsideError, SettingError
from minillm.evaluation.language_modelling import measure
from minillm.evaluation.text import training_data
from minillm.language_model import load
from minillm.progress import track

TRAIN = CONF.parent / "scripts" / "train.py"


@dataclass(frozen=True)
class QualityOverTime:
    """Trains experiments for the same time each, and tests what they know on the way.

    The time is that of the training alone: nothing is validated meanwhile, and the weights are tested afterwards, from
    checkpoints. How many steps fit is measured first, so that every schedule comes to its end.

    Args:
        experiments: overrides of `scripts/train.py` by name, such as ``[experiment=modern]``.
        common: overrides for all of them.
        seconds: of training each.
        tests: how often the weights are tested, at equal distances, the last time at the end.
        seeds: each experiment is trained with each of them.
        calibration_steps: of a first short run, to learn how long a step takes; its first half is not counted.

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
        if self.tests < 1:
            raise SettingError("tests", self.tests, "must be at least 1, such as 4")
        if self.calibration_steps < 2:
            raise SettingError("calibration_steps", self.calibration_steps, "must be at least 2, such as 120")

    def measure(self, session: Session) -> Quality:
        """Train everything, a seed at a time; return test bits per byte over time.

        Raises:
            OutsideError: a training that fails; the message is its own.
        """
        steps = {name: self._steps_that_fit(session, name) for name in self.experiments}
        curves: dict[str, list[LearningCurve]] = {name: [] for name in self.experiments}
        runs = [(seed, name) for seed in self.seeds for name in self.experiments]
        for seed, name in track(runs, "training", len(runs)):
            curves[name].append(self._train(session, name, seed, steps[name]))
        return {"seconds": float(self.seconds), "curves": curves}

    def _steps_that_fit(self, session: Session, name: str) -> int:
        last, half = self.calibration_steps, self.calibration_steps // 2
        middle, end = self._run(session, name, last, "seed=0", times_at=[half, last])[1]
        a_step = (end - middle) / (last - half)
        return max(1, round(self.seconds / a_step))

    def _train(self, session: Session, name: str, seed: int, steps: int) -> LearningCurve:
        every = max(1, steps // self.tests)
        kept = {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "dirpath": "${paths.output_dir}/tests",
            "filename": "'{step}'",
            "auto_insert_metric_name": "false",
            "every_n_train_steps": every,
            "save_top_k": -1,
        }
        overrides = [f"+callbacks.tests.{argument}={value}" for argument, value in kept.items()]
        tested = [every * number for number in range(1, self.tests + 1)]
        folder, seconds = self._run(session, name, tested[-1], f"seed={seed}", *overrides, times_at=tested)
        return {
            "seed": seed,
            "steps": tested,
            "seconds": seconds,
            "bits_per_byte": [_tested(folder / "tests" / f"{step}.ckpt", session) for step in tested],
        }

    def _run(
        self, session: Session, name: str, steps: int, *overrides: str, times_at: Sequence[int]
    ) -> tuple[Path, list[float]]:
        """Train in a process of its own; return its folder, and the seconds of training at some steps."""
        folder = session.new_path("quality")
        command = [
            *(sys.executable, str(TRAIN), *self.common, *self.experiments[name], *overrides),
            *(f"hydra.run.dir={folder}", f"paths.data_dir={session.config.paths.data_dir}", "evaluation=none"),
            *("trainer.max_epochs=1000000", f"trainer.max_steps={steps}", "trainer.limit_val_batches=0"),
            f"trainer.log_every_n_steps={min(10, *times_at)}",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise OutsideError(f"{name}: {(result.stderr.strip() or result.stdout.strip()).splitlines()[-1]}")
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/seconds")]
        logged = [int(row["step"]) + 1 for row in rows], [float(row["train/seconds"]) for row in rows]
        # Between two logged steps time passes evenly; after the last one at the mean speed.
        whole = logged[1][-1] / logged[0][-1]
        return folder, [float(np.interp(step, *logged)) + max(0, step - logged[0][-1]) * whole for step in times_at]

    def show(self, figures: Quality, console: Console) -> None:
        """Show the figures of each test, and the time of the last."""
        title = f"Quality: test bits per byte over {figures['seconds']:g} s of training, mean ± standard deviation"
        shares = [f"{100 * number / self.tests:.0f} %" for number in range(1, self.tests + 1)]
        made = table(title, "experiment", *shares, "seconds", "steps", "seeds")
        for name, curves in figures["curves"].items():
            by_test = zip(*(curve["bits_per_byte"] for curve in curves), strict=True)
            seconds = [curve["seconds"][-1] for curve in curves]
            made.add_row(
                name, *map(_mean, by_test), _mean(seconds, ".0f"), str(curves[0]["steps"][-1]), str(len(curves))
            )
        console.print(made)
        console.print()

    def panels(self, figures: Quality) -> int:
        """Return 1."""
        return 1

    def draw(self, figures: Quality, axes: Iterator[Axes]) -> None:
        """Draw each experiment's mean over time, and what its seeds span."""
        panel = next(axes)
        for name, curves in figures["curves"].items():
            seconds, figure = (np.array([curve[key] for curve in curves]) for key in ("seconds", "bits_per_byte"))
            [line] = panel.plot(seconds.mean(axis=0), figure.mean(axis=0), marker="o", markersize=3, label=name)
            panel.fill_between(
                seconds.mean(axis=0), figure.min(axis=0), figure.max(axis=0), color=line.get_color(), alpha=0.2
            )
        panel.set_title("test bits per byte", fontsize=10)
        panel.set_xlabel("seconds of training")
        panel.legend(fontsize=8)


def _mean(values: Iterable[float], form: str = ".3f") -> str:
    values = list(values)
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"


def _tested(checkpoint: Path, session: Session) -> float:
    """Return a checkpoint's bits per byte on the test split."""
    model = load(checkpoint, session.device)
    data = training_data(model, session.config.paths.data_dir)
    figures = measure(model.network, data.splits["test"], model.max_length, device=session.device).figures
    return figures["bits_per_byte"]
