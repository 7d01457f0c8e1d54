"""Comparison of runs: one sorted table, with the settings in which they differ and whether figures differ."""

import csv
import difflib
import io
import math
import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from rich.align import VerticalAlignMethod
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from minillm.errors import SettingError
from minillm.evaluation.differences import BELIEVED, Against, beside_the_best, interval_of, notes
from minillm.evaluation.page import render, shown, span
from minillm.evaluation.plots import BAD, GREY, TEST, WEAK, curves_of_runs, read_curves, runs_by_figure
from minillm.evaluation.report import REPORT
from minillm.evaluation.results import figure_names
from minillm.evaluation.runs import Run, find_runs, read_run
from minillm.files import written_whole

HIGHER_IS_BETTER = ("accuracy", "bleu", "distinct")  # for all other figures, lower is better
# By verdict: a run's style on the terminal, its class on the page, and the colour of its point.
LOOKS = {"yes": ("", "", TEST), "yes (weak)": ("", "", WEAK), "NO": ("red", "bad", BAD)}
NOT_EVALUATED = ("dim", "soft", GREY)
# Settings that change no figure, but only folders, speed or displays.
IMMATERIAL = (
    *("paths", "hydra", "logger", "resume", "ckpt_path", "optimized_metric", "data.data_dir", "data.num_workers"),
    *("evaluation.batch_size", "evaluation.latency_runs", "evaluation.prompts", "evaluation.sampling"),
    *("callbacks.progress_bar", "callbacks.text_samples", "callbacks.throughput", "callbacks.memory"),
    *("callbacks.elapsed_time", "callbacks.checkpointing.every_minutes", "callbacks.checkpointing.every_n_train_steps"),
    *("trainer.default_root_dir", "trainer.log_every_n_steps", "trainer.profiler", "trainer.enable_model_summary"),
    *("trainer.enable_progress_bar", "trainer.enable_checkpointing", "trainer.num_sanity_val_steps"),
)
MARKS = {"NO": "NOT TO BE TRUSTED", "yes (weak)": "weak"}  # shown under a run's name
MOST_CURVES = 100  # runs whose validation curves are drawn: the best ones
RUN_WIDTH = 20  # minimum width of the terminal's first column: a run's name is a date and time


@dataclass(frozen=True)
class Comparison:
    """A table of runs.

    Args:
        runs: sorted, the best one first, those without figures last.
        settings: relevant settings in which the runs differ, the shortest first.
        metrics: names of figures; the runs are sorted by the first one.
        over: the setting over which rows are means; None: each row is a run.
        hidden: number of runs without any figure, which are not shown.
    """

    runs: Sequence[Run]
    settings: Sequence[str]
    metrics: Sequence[str]
    over: str | None = None
    hidden: int = 0

    @cached_property
    def parent(self) -> Path:
        """The folder that all runs are in."""
        return Path(os.path.commonpath([each.folder.resolve().parent for run in self.runs for each in run.members]))

    def name(self, run: Run) -> str:
        """Return a run's path in the common folder."""
        return str(run.folder.resolve().relative_to(self.parent))

    def label(self, run: Run) -> str:
        """Return the names of a row's runs."""
        return ", ".join(map(self.name, run.members))

    @cached_property
    def intervals(self) -> list[tuple[float, float] | None]:
        """The 95 % interval of each row's first figure; None: there is none."""
        return [interval_of(run, self.metrics[0]) for run in self.runs]

    @cached_property
    def against(self) -> list[Against]:
        """Each row's first figure compared with the best row's; empty if nothing can be compared."""
        return beside_the_best(self.runs, self.metrics[0], self.over is not None)

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        within = ["95 %"] if any(self.intervals) else []
        against = ["against the best"] if self.against else []
        return ["run", self.metrics[0], *within, *against, *self.metrics[1:], "trustworthy", *self.settings]

    @property
    def numbers(self) -> range:
        """Indices of the columns with figures."""
        return range(1, self.header.index("trustworthy"))

    def rows(self, form: Callable[[float], str]) -> list[list[str]]:
        """Return the cells of each run.

        Args:
            form: formats a figure.
        """
        rows = []
        for number, run in enumerate(self.runs):
            first, *others = (_cell(run, name, form) for name in self.metrics)
            ends = self.intervals[number]
            within = ["–".join(map(form, ends)) if ends else ""] if any(self.intervals) else []
            against = [self.against[number].line] if self.against else []
            settings = map(run.setting, self.settings)
            rows.append([self.label(run), first, *within, *against, *others, run.trustworthy, *settings])
        return rows

    @property
    def notes(self) -> list[str]:
        """Sentences that explain the table."""
        sentences = notes(self.against, self.over is not None)
        if self.hidden:
            runs = "1 run" if self.hidden == 1 else f"{self.hidden:,} runs"
            sentences.append(f"{runs} without any figure: hidden; failed=true shows what there is.")
        return sentences

    def show(self, console: Console) -> None:
        """Show the table on a terminal: as many figures as fit into its width, and each run's settings below."""
        if not console.is_terminal:
            console.width = 10_000  # a file has no width
        names = [[self.name(run) for run in row.members] for row in self.runs]
        longest = max(len(name) for row in names for name in row)
        room = console.width - min(longest, RUN_WIDTH) - 1
        kept: list[tuple[int, list[str], list[list[str]]]] = []
        columns = self._columns()
        for head, cells in columns:
            width = max(len(line) for cell in (head, *cells) for line in cell) + 1
            if width > room and kept:
                break
            room -= width
            kept.append((width, head, cells))
        widths = [
            min(longest, RUN_WIDTH) + min(max(room, 0), max(longest - RUN_WIDTH, 0)) + 1,
            *(each[0] for each in kept),
        ]
        console.print(escape(f"Runs in {os.path.relpath(self.parent)} by {self.metrics[0]}"), style="italic")
        console.print(_grid(widths, ["run", *("\n".join(head) for _, head, _ in kept)], "bottom"), style="bold")
        console.print("─" * sum(widths), highlight=False)
        for number, run in enumerate(self.runs):
            style = LOOKS.get(run.trustworthy, NOT_EVALUATED)[0]
            figures = (escape("\n".join(cells[number])) for _, _, cells in kept)
            console.print(
                _grid(widths, ["\n".join(map(_linked, run.members, names[number])), *figures], "top"), style=style
            )
            mark, *settings = self._about(run)
            if mark or settings:
                mark = f"[yellow]{mark}[/]  " if run.trustworthy == "yes (weak)" else f"{mark}  " if mark else ""
                line = f"{mark}[dim]{escape('  '.join(settings))}[/]"
                console.print(Padding(line, (0, 0, 0, 2)), style=style, highlight=False)
        console.print()
        for sentence in self.notes:
            console.print(escape(sentence), highlight=False)
        if left_out := ["".join(head) for head, _ in columns[len(kept) :]]:
            console.print(escape(f"No room here for {', '.join(left_out)}."), highlight=False)

    def _about(self, run: Run) -> list[str]:
        """Return the line below a run's figures: the verdict (empty: trustworthy), and its settings."""
        mark = "" if run.trustworthy == "yes" else MARKS.get(run.trustworthy, run.trustworthy)
        return [mark, *(f"{name}={value}" for name in self.settings if (value := run.setting(name)))]

    def _columns(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return the terminal's columns of figures: the lines of the header, and those of each row's cell."""
        columns = []
        for number, name in enumerate(self.metrics):
            head = re.sub(r"(?<=[/._])", "\n", name).split("\n")
            cells = [_cell(run, name, shown).replace(" ± ", "\n± ").split("\n") for run in self.runs]
            if number == 0:
                cells = [[*cell, *filter(None, [span(ends)])] for cell, ends in zip(cells, self.intervals, strict=True)]
            columns.append((head, cells))
            if number == 0 and self.against:
                columns.append((["against", "the best"], [each.lines() for each in self.against]))
        return columns

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ["---:" if number in self.numbers else "---" for number in range(len(self.header))]
        lines = [self.header, rule, *self.rows(shown)]
        table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        return table + "".join(f"\n{sentence}\n" for sentence in self.notes)

    def csv(self) -> str:
        """Return the table as CSV, with full paths, all digits, and one number per column."""
        first = self.metrics[0]
        spread = [name for name in self.metrics if any(name in run.spread for run in self.runs)]
        header = ["run", *self.metrics, *(f"{name} ±" for name in spread)]
        header += [f"{first} low", f"{first} high"] if any(self.intervals) else []
        header += ["against the best", "difference", "difference low", "difference high"] if self.against else []
        header += ["trustworthy", *self.settings]
        rows: list[list[object]] = []
        for number, run in enumerate(self.runs):
            row: list[object] = [" ".join(str(each.folder) for each in run.members)]
            row += [run.figures.get(name, "") for name in self.metrics]
            row += [run.spread.get(name, "") for name in spread]
            row += (self.intervals[number] or ("", "")) if any(self.intervals) else ()
            if self.against:
                beside = self.against[number]
                row += [beside.verdict, *(beside.difference[:3] if beside.difference else ("", "", ""))]
            rows.append([*row, run.trustworthy, *map(run.setting, self.settings)])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()

    def html(self, folder: Path = Path()) -> str:
        """Return a page with the table and plots.

        Args:
            folder: the page's folder, to which links are relative.
        """
        first = self.metrics[0]
        measured = {self.label(run): run for run in self.runs if first in run.figures}
        looks = {run.trustworthy: LOOKS.get(run.trustworthy, NOT_EVALUATED) for run in self.runs}
        points = runs_by_figure(
            first,
            {label: run.figures[first] for label, run in measured.items()},
            {label: looks[run.trustworthy][2] for label, run in measured.items()},
            {self.label(run): ends for run, ends in zip(self.runs, self.intervals, strict=True) if ends},
        )
        curved, curves = self._curves()
        return render(
            "comparison.html.jinja",
            comparison=self,
            parent=os.path.relpath(self.parent),
            heads=[self.header[number] for number in self.numbers],
            rows=[
                (
                    looks[run.trustworthy][1],
                    self._links(run, folder),
                    [cells[number] for number in self.numbers],
                    self._about(run),
                )
                for run, cells in zip(self.runs, self.rows(shown), strict=True)
            ],
            points=points if measured else None,
            curves=curves_of_runs(curved, curves) if curves else None,
        )

    def _links(self, run: Run, folder: Path) -> Markup:
        """Return the names of a row's runs, as links to their reports if there are any."""
        names = []
        for each in run.members:
            report = each.folder.resolve() / REPORT
            name = Markup("{}").format(self.name(each))
            if report.is_file():
                address = quote(Path(os.path.relpath(report, folder.resolve())).as_posix())
                name = Markup('<a href="{}">{}</a>').format(address, name)
            names.append(name)
        return Markup(", ").join(names)

    def _curves(self) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
        """Return the validation curves of the runs, of bits per byte if all have it, otherwise of the loss."""
        first = [each for run in self.runs for each in run.members][:MOST_CURVES]
        logged = {self.name(each): read_curves(each.folder) for each in first}
        logged = {name: curves for name, curves in logged.items() if "val/loss" in curves}
        figure = "val/bits_per_byte"
        if not all(figure in curves for curves in logged.values()):
            figure = "val/loss"
        points = {name: curves[["step", figure]].dropna() for name, curves in logged.items()}
        return figure, {name: (each["step"].tolist(), each[figure].tolist()) for name, each in points.items()}

    def write(self, folder: Path) -> None:
        """Write ``comparison.md``, ``.csv`` and ``.html``, each atomically.

        Args:
            folder: for the files; created if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in ("md", self.markdown()), ("csv", self.csv()), ("html", self.html(folder)):
            with written_whole(folder / f"comparison.{suffix}") as file:
                file.write_text(text, encoding="utf-8")


def compare(
    places: Sequence[str], metrics: Sequence[str], sort_by: str, over: str | None = None, failed: bool = False
) -> Comparison:
    """Return a comparison of the runs in some folders, the best one first.

    Args:
        places: folders of runs, folders that contain such folders (a sweep's, or ``outputs``), and globs of both.
        metrics: names of the figures to show, such as ``test/loss``.
        sort_by: name of the figure to sort by.
        over: a setting, such as ``seed``: runs that differ only in it become one row, with mean and standard deviation
            of each figure.
        failed: whether to show runs without any figure, too.

    Raises:
        SettingError: there is no run, none with a figure, a figure that none of the evaluated runs has, or a setting
            ``over`` in which no runs differ.
    """
    found = [read_run(folder) for folder in find_runs(places)]
    known = {name for run in found for name in run.figures}
    evaluated = any(run.trustworthy in LOOKS for run in found)
    # If no run was evaluated, figures that none has are valid, too.
    names_known = known if evaluated else known | figure_names()
    for setting, names in ("sort_by", [sort_by]), ("metrics", metrics):
        for name in names:
            if name not in names_known:
                close = difflib.get_close_matches(name, names_known, cutoff=0.3) or sorted(names_known)
                raise SettingError(setting, name, f"no run has this figure; there are {', '.join(close)}")
    runs = [run for run in found if failed or not run.failed]
    if not runs:
        raise SettingError(
            "runs", f"[{', '.join(places)}]", f"none of the {len(found):,} there has any figure; failed=true lists them"
        )

    def badness(run: Run) -> float:
        value = run.figures.get(sort_by, math.nan)
        if math.isnan(value):
            return math.inf
        return -value if sort_by.rpartition("/")[2].startswith(HIGHER_IS_BETTER) else value

    differing = _differing(runs)
    settings = [name for name in differing if not _is_immaterial(name)]
    if over is not None:
        if over not in differing:
            raise SettingError(
                "over", over, f"is not what the runs differ in; that is {', '.join(differing) or 'nothing'}"
            )
        settings = [name for name in settings if name != over]
        groups: dict[tuple[str, ...], list[Run]] = {}
        for run in runs:
            groups.setdefault(tuple(map(run.setting, settings)), []).append(run)
        runs = [_mean(group) for group in groups.values()]
    # No empty columns: runs that were not evaluated lack most figures, and older ones some.
    shown_metrics = dict.fromkeys([sort_by, *(name for name in metrics if name in known)])
    return Comparison(sorted(runs, key=badness), settings, list(shown_metrics), over, len(found) - len(runs_of(runs)))


def runs_of(rows: Sequence[Run]) -> list[Run]:
    """Return the runs of rows."""
    return [run for row in rows for run in row.members]


def _is_immaterial(name: str) -> bool:
    """Return whether a setting is among `IMMATERIAL`, or within one of these."""
    # A run's row shows whether it was evaluated at all.
    return name == "evaluation" or re.match(rf"({'|'.join(map(re.escape, IMMATERIAL))})([./]|$)", name) is not None


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings on command lines in which runs differ, the shortest first."""
    named = dict.fromkeys(name for run in runs for name in run.overrides)
    values = {name: {run.setting(name) for run in runs} for name in named}
    differing = [name for name in named if len(values[name]) > 1]
    return sorted(differing, key=lambda name: len(name) + max(map(len, values[name])))


def _grid(widths: Sequence[int], cells: Sequence[str], vertical: VerticalAlignMethod) -> Table:
    """Return a row of the terminal's table: the first column left-aligned, the others right-aligned."""
    grid = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    for number, width in enumerate(widths):
        grid.add_column(
            width=width - (number < len(widths) - 1),
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number > 0,
            vertical=vertical,
        )
    grid.add_row(*cells)
    return grid


def _linked(run: Run, name: str) -> str:
    """Return a run's name for the terminal, as a link to its report if there is one."""
    report = run.folder.resolve() / REPORT
    return f"[link={report.as_uri()}]{escape(name)}[/link]" if report.is_file() else escape(name)


def _cell(run: Run, name: str, form: Callable[[float], str]) -> str:
    """Return a run's figure with its standard deviation; "" if it has none."""
    spread = f" ± {form(run.spread[name])}" if name in run.spread else ""
    return form(run.figures[name]) + spread if name in run.figures else ""


def _mean(runs: Sequence[Run]) -> Run:
    """Return one row for several runs, with the mean of each figure over the runs that have it."""
    first, *others = runs
    if not others:
        return first
    values = {name: [run.figures[name] for run in runs if name in run.figures] for run in runs for name in run.figures}
    verdicts = {run.trustworthy for run in runs}
    if "NO" in verdicts:
        verdict = "NO"
    elif verdicts <= set(BELIEVED):
        verdict = max(verdicts)  # weak, if one is
    else:
        verdict = ", ".join(sorted(verdicts))
    return replace(
        first,
        trustworthy=verdict,
        figures={name: of[0] if _is_count(of) else statistics.fmean(of) for name, of in values.items()},
        others=others,
        spread={name: statistics.stdev(of) for name, of in values.items() if len(of) > 1 and not _is_count(of)},
    )


def _is_count(values: Sequence[float]) -> bool:
    """Return whether a figure is a count that is equal in all runs, such as the number of parameters."""
    return isinstance(values[0], int) and len(set(values)) == 1
