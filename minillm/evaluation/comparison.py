"""Runs side by side: one sorted table, with the settings in which they differ."""

import contextlib
import csv
import difflib
import glob
import io
import logging
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from minillm.errors import OutsideError, SettingError
from minillm.evaluation.page import render, shown
from minillm.evaluation.plots import runs_by_figure
from minillm.evaluation.results import figure_names, figures, logged_figures, read_evaluation, verdict_of
from minillm.evaluation.schema import Verdict
from minillm.files import written_whole

log = logging.getLogger(__name__)

# Any of these makes a folder that of a run.
LEFT_BY_A_RUN = (".hydra", "checkpoints", "evaluation")
# What the search leaves in the folder of a run that it has given up.
PRUNED = "pruned.txt"
# Of these figures more is better; of all others less is.
HIGHER_IS_BETTER = ("accuracy", "bleu", "distinct")
# What the table says of an evaluated run, and in which style.
TRUSTWORTHY: dict[Verdict, str] = {"fine": "yes", "weak": "yes (weak)", "fault": "NO"}
STYLES = {"yes": "", "yes (weak)": "yellow", "NO": "red"}


@dataclass(frozen=True)
class Run:
    """A run's folder, and what is known about it.

    Args:
        folder: where it is.
        trustworthy: ``yes``, ``yes (weak)`` or ``NO``; of a run that was not audited why.
        figures: by name, as `minillm.evaluation.results` returns them: evaluated ones, else what training logged.
        overrides: the settings that its command line named, such as ``model.dropout``, and what it said.
        config: its whole configuration.
        choices: its choice in each config group.
        others: folders of further runs that it stands for; the figures are then means.
        spread: the sample standard deviation of each figure over these runs.
    """

    folder: Path
    trustworthy: str
    figures: Mapping[str, float]
    overrides: Mapping[str, str]
    config: DictConfig
    choices: Mapping[str, str]
    others: Sequence[Path] = ()
    spread: Mapping[str, float] = field(default_factory=dict)

    def setting(self, name: str) -> str:
        """Return a setting's value, whether the run overrode it or not; for a config group its choice."""
        with contextlib.suppress(OmegaConfBaseException):  # an interpolation that only the run itself could resolve
            value = OmegaConf.select(self.config, name)
            if value is not None and not OmegaConf.is_dict(value):
                return str(value)
        # A choice of several files is in the command line alone.
        return str(self.choices.get(name, self.overrides.get(name, "")))


@dataclass(frozen=True)
class Comparison:
    """Runs in one table.

    Args:
        runs: sorted, the best one first, those without figures last.
        settings: those in which the runs differ.
        metrics: names of figures, the first one that which the runs are sorted by.
    """

    runs: Sequence[Run]
    settings: Sequence[str]
    metrics: Sequence[str]

    @property
    def parent(self) -> Path:
        """The folder that all runs are in."""
        return Path(os.path.commonpath([run.folder.resolve().parent for run in self.runs]))

    def label(self, run: Run) -> str:
        """Return what names a run, or the runs that it stands for, in the folder that all are in."""
        return ", ".join(str(folder.resolve().relative_to(self.parent)) for folder in (run.folder, *run.others))

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return ["run", "trustworthy", *self.settings, *self.metrics]

    @property
    def numbers(self) -> range:
        """Which of the columns are figures."""
        return range(2 + len(self.settings), len(self.header))

    def rows(self, form: Callable[[float], str]) -> list[list[str]]:
        """Return the cells of each run.

        Args:
            form: how a figure is written.
        """

        def cell(run: Run, name: str) -> str:
            spread = f" ± {form(run.spread[name])}" if name in run.spread else ""
            return form(run.figures[name]) + spread if name in run.figures else ""

        return [
            [
                self.label(run),
                run.trustworthy,
                *map(run.setting, self.settings),
                *(cell(run, name) for name in self.metrics),
            ]
            for run in self.runs
        ]

    def show(self, console: Console) -> None:
        """Show the table on a terminal."""
        title = escape(f"Runs in {os.path.relpath(self.parent)} by {self.metrics[0]}")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for number, name in enumerate(self.header):
            justify: JustifyMethod = "right" if number in self.numbers else "left"
            table.add_column(
                escape(re.sub(r"(?<=[/._])", "\n", name)), justify=justify, overflow="fold", vertical="bottom"
            )
        for run, cells in zip(self.runs, self.rows(shown), strict=True):
            table.add_row(*map(escape, cells), style=STYLES.get(run.trustworthy, "dim"))
        if not console.is_terminal:
            console.width = 10_000  # a file has no right edge
        console.print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ["---:" if number in self.numbers else "---" for number in range(len(self.header))]
        lines = [self.header, rule, *self.rows(shown)]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def csv(self) -> str:
        """Return the table as CSV: whole paths, every figure with all its digits, its spread in a column of its own."""
        spread = [name for name in self.metrics if any(name in run.spread for run in self.runs)]
        header = ["run", "trustworthy", *self.settings, *self.metrics, *(f"{name} ±" for name in spread)]
        rows = [
            [
                " ".join(str(folder) for folder in (run.folder, *run.others)),
                run.trustworthy,
                *map(run.setting, self.settings),
                *(run.figures.get(name, "") for name in self.metrics),
                *(run.spread.get(name, "") for name in spread),
            ]
            for run in self.runs
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()

    def html(self) -> str:
        """Return a page with the table and plots."""
        rows = list(zip(self.runs, self.rows(shown), strict=True))
        name = self.metrics[0]
        measured = {cells[0]: run for run, cells in rows if name in run.figures}
        plot = runs_by_figure(
            name,
            {place: run.figures[name] for place, run in measured.items()},
            bad=[place for place, run in measured.items() if run.trustworthy == "NO"],
        )
        return render(
            "comparison.html.jinja",
            comparison=self,
            parent=os.path.relpath(self.parent),
            rows=rows,
            plot=plot if measured else None,
        )

    def write(self, folder: Path) -> None:
        """Write ``comparison.md``, ``.csv`` and ``.html``, each whole or not at all.

        Args:
            folder: where to; made if need be.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in ("md", self.markdown()), ("csv", self.csv()), ("html", self.html()):
            with written_whole(folder / f"comparison.{suffix}") as file:
                file.write_text(text, encoding="utf-8")


def compare(places: Sequence[str], metrics: Sequence[str], sort_by: str, over: str | None = None) -> Comparison:
    """Return the runs that some places mean, the best one first.

    Args:
        places: folders of runs, folders of such folders (a sweep's, or ``outputs``), and globs of both.
        metrics: names of the figures to show, such as ``test/loss``.
        sort_by: name of the figure to sort by.
        over: a setting, such as ``seed``: runs that differ in it alone become one, with mean and spread of each figure.

    Raises:
        SettingError: there is no run, a figure that none of the evaluated runs has, or a setting ``over`` which none
            differ.
    """
    runs = [read_run(folder) for folder in find_runs(places)]
    known = {name for run in runs for name in run.figures}
    evaluated = any(run.trustworthy in STYLES for run in runs)
    # What no run has can still be the name of a figure, where none was evaluated.
    names_known = known if evaluated else known | figure_names()
    for setting, names in ("sort_by", [sort_by]), ("metrics", metrics):
        for name in names:
            if name not in names_known:
                close = difflib.get_close_matches(name, names_known, cutoff=0.3) or sorted(names_known)
                raise SettingError(setting, name, f"no run has this figure; there are {', '.join(close)}")

    def badness(run: Run) -> float:
        value = run.figures.get(sort_by, math.nan)
        if math.isnan(value):
            return math.inf
        return -value if sort_by.rpartition("/")[2].startswith(HIGHER_IS_BETTER) else value

    overridden = dict.fromkeys(name for run in runs for name in run.overrides)
    settings = [name for name in overridden if len({run.setting(name) for run in runs}) > 1]
    if over is not None:
        if over not in settings:
            raise SettingError(
                "over", over, f"is not what the runs differ in; that is {', '.join(settings) or 'nothing'}"
            )
        settings.remove(over)
        alike: dict[tuple[str, ...], list[Run]] = {}
        for run in runs:
            alike.setdefault(tuple(map(run.setting, settings)), []).append(run)
        runs = [_mean(group) for group in alike.values()]
    return Comparison(
        runs=sorted(runs, key=badness),
        settings=settings,
        # Runs that were not evaluated lack most figures: no empty columns for them.
        metrics=list(dict.fromkeys([sort_by, *(name for name in metrics if evaluated or name in known)])),
    )


def _mean(runs: Sequence[Run]) -> Run:
    """Return one run that stands for several, each figure the mean of those that have it."""
    first, *others = runs
    if not others:
        return first
    values = {name: [run.figures[name] for run in runs if name in run.figures] for run in runs for name in run.figures}
    verdicts = {run.trustworthy for run in runs}
    return replace(
        first,
        trustworthy="NO" if "NO" in verdicts else ", ".join(sorted(verdicts)),
        figures={name: statistics.fmean(of) for name, of in values.items()},
        others=[run.folder for run in others],
        spread={name: statistics.stdev(of) for name, of in values.items() if len(of) > 1},
    )


def find_runs(places: Sequence[str]) -> list[Path]:
    """Return the folders of the runs that some places mean, each once.

    Args:
        places: as `compare` takes them.

    Raises:
        SettingError: there is no run.
    """
    # Path.glob takes no absolute patterns.
    matches = [Path(match) for place in places for match in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207
    runs = {run.resolve(): run for match in matches for run in _runs_in(match)}
    if not runs:
        raise SettingError(
            "runs", f"[{', '.join(places)}]", "no run there; give folders under outputs/train or outputs/multirun"
        )
    return list(runs.values())


def _runs_in(folder: Path) -> Iterator[Path]:
    if any((folder / name).is_dir() for name in LEFT_BY_A_RUN):
        yield folder
    elif folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from _runs_in(child)


def read_run(folder: Path) -> Run:
    """Return what is known about a run; a damaged file of it gets a line in the log."""
    evaluation, trustworthy = None, "not evaluated"
    try:
        evaluation = read_evaluation(folder)
    except OutsideError as error:
        log.warning("%s", error)
        trustworthy = "damaged"
    if evaluation is not None:
        trustworthy = TRUSTWORTHY[verdict_of(evaluation)]
    elif (folder / PRUNED).is_file():
        trustworthy = "pruned"
    return Run(
        folder,
        trustworthy,
        {**_logged_figures(folder), **figures(evaluation or {})},
        _overrides(folder / ".hydra" / "overrides.yaml"),
        _read(folder / ".hydra" / "config.yaml"),
        _choices(folder / ".hydra" / "hydra.yaml"),
    )


def _logged_figures(folder: Path) -> dict[str, float]:
    try:
        return logged_figures(folder)
    except (OSError, ValueError, TypeError, LookupError, csv.Error) as error:
        _damaged(folder / "metrics.csv", error)
        return {}


def _overrides(path: Path) -> dict[str, str]:
    try:
        lines: Any = OmegaConf.to_object(_read(path))
        overrides = [OverridesParser.create().parse_override(str(line)) for line in lines]
        return {override.key_or_group: override.get_value_element_as_str() for override in overrides}
    except (HydraException, TypeError) as error:
        return _damaged(path, error)


def _choices(path: Path) -> dict[str, str]:
    try:
        return dict(OmegaConf.select(_read(path), "hydra.runtime.choices") or {})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        return _damaged(path, error)


def _read(path: Path) -> Any:
    """Return a YAML file of Hydra's; an empty config for one that is missing or damaged."""
    if path.is_file():
        try:
            return OmegaConf.load(path)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            _damaged(path, error)
    return OmegaConf.create()


def _damaged(path: Path, error: Exception) -> dict[str, Any]:
    """Say that a file cannot be used, and return nothing in its place."""
    log.warning("%s: damaged (%s)", path, " ".join(str(error).split()))
    return {}
