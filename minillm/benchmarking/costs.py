"""What a dump costs as it grows: memory and speed of preparing it, and the time of an evaluation on it."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.display import curve, table
from minillm.benchmarking.dumps import write_dump
from minillm.benchmarking.schema import Corpus, CorpusSize, Prepared
from minillm.command import CONF
from minillm.errors import OutsideError, SettingError
from minillm.evaluation.results import EVALUATION
from minillm.memory import MIB
from minillm.progress import track

SCRIPTS = CONF.parent / "scripts"
MB = 1e6
SAMPLED = 0.2  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class CorpusCosts:
    """Prepares dumps of several sizes with `scripts/prepare.py`, in one file and in parts, as users do.

    Then a network is trained for a few steps and evaluated with `scripts/train.py`: the seconds are those of the
    evaluation alone. The dumps are made of the sample corpus's sentences.

    Args:
        pages: of the dumps, redirects and near copies among them.
        parts: files that a dump in parts has.
        steps: that the network is trained for; 0: nothing is trained and evaluated.
        common: overrides of both scripts.
        training: overrides of `scripts/train.py`.

    Raises:
        SettingError: no size, one under 100 pages, fewer than 2 parts, or steps under 0.
    """

    pages: Sequence[int] = (5000, 10000, 20000)
    parts: int = 4
    steps: int = 20
    common: Sequence[str] = ("tokenizer=bpe",)
    training: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not min(self.pages, default=0) >= 100:
            raise SettingError("pages", list(self.pages), "must be sizes from 100 on, such as [5000, 10000, 20000]")
        if self.parts < 2:
            raise SettingError("parts", self.parts, "must be at least 2, such as 4")
        if self.steps < 0:
            raise SettingError("steps", self.steps, "must be at least 1, such as 20, or 0 to evaluate nothing")

    def measure(self, session: Session) -> Corpus:
        """Return what each size costs.

        Raises:
            OutsideError: a script fails; the message is its own.
        """
        pages = sorted(set(self.pages))
        return {"parts": self.parts, "sizes": [self._costs(session, n) for n in track(pages, "dumps", len(pages))]}

    def _costs(self, session: Session, pages: int) -> CorpusSize:
        folder = session.new_path("dump")
        folder.mkdir(parents=True)
        whole, parts = folder / "dump.xml.bz2", [folder / f"dump-{n + 1}.xml.bz2" for n in range(self.parts)]
        size, _ = write_dump([whole], pages), write_dump(parts, pages)
        try:
            one, kept = self.prepare(whole, size, folder / "whole")
            several, _ = self.prepare(folder / "dump-*.xml.bz2", size, folder / "parts")
            seconds = self._evaluation(whole, folder / "whole", folder / "run") if self.steps else None
        finally:
            shutil.rmtree(folder)  # the next one is larger
        return {
            "pages": pages,
            "xml_mb": size / MB,
            "articles": kept,
            "one_file": one,
            "in_parts": several,
            "evaluation_seconds": seconds,
        }

    def prepare(self, dump: Path, size: int, data_dir: Path) -> tuple[Prepared, int]:
        """Prepare a dump of so many bytes of XML; return what it cost, and how many articles were kept.

        Raises:
            OutsideError: the script fails; the message is its own.
        """
        seconds, cpu_seconds, peak = _run("prepare", *self._data(dump, data_dir))
        [manifest] = (data_dir / "corpus").glob("*/manifest.json")
        kept = json.loads(manifest.read_text(encoding="utf-8"))["funnel"]["kept"]
        prepared: Prepared = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "mb_per_second": size / MB / seconds,
            "peak_mib": peak,
        }
        return prepared, kept

    def _evaluation(self, dump: Path, data_dir: Path, run: Path) -> float:
        """Train a little and evaluate; return the seconds of the evaluation."""
        short = (f"trainer.max_steps={self.steps}", f"hydra.run.dir={run}")
        _run("train", *self._data(dump, data_dir), *self.training, *short)
        return float(json.loads((run / EVALUATION).read_text(encoding="utf-8"))["seconds"])

    def _data(self, dump: Path, data_dir: Path) -> tuple[str, ...]:
        source = (f"data.source.path={dump}", "data.num_articles=null", f"paths.data_dir={data_dir}")
        return ("data=dump", *source, *self.common)

    def show(self, figures: Corpus, console: Console) -> None:
        """Show a line for each size."""
        columns = ("MB of XML", "articles", "MB/s", "MiB", f"MB/s, {figures['parts']} parts", "MiB", "evaluation, s")
        made = table("Corpus: scripts/prepare.py on dumps; memory is the peak of all its processes", "pages", *columns)
        for size in figures["sizes"]:
            both = (size["one_file"], size["in_parts"])
            costs = (f(cost) for cost in both for f in (_speed, _peak))
            seconds = size["evaluation_seconds"]
            evaluated = "" if seconds is None else f"{seconds:,.0f}"
            made.add_row(f"{size['pages']:,}", f"{size['xml_mb']:,.1f}", f"{size['articles']:,}", *costs, evaluated)
        console.print(made)
        console.print()

    def panels(self, figures: Corpus) -> int:
        """Return 3, or 2 where nothing was evaluated."""
        return 2 if any(size["evaluation_seconds"] is None for size in figures["sizes"]) else 3

    def draw(self, figures: Corpus, axes: Iterator[Axes]) -> None:
        """Draw speed and memory, of one file and of parts, and the evaluation's seconds."""
        sizes = figures["sizes"]
        pages = [size["pages"] for size in sizes]
        for title, costs in {
            "a dump in one file": [size["one_file"] for size in sizes],
            f"a dump in {figures['parts']} parts": [size["in_parts"] for size in sizes],
        }.items():
            speeds, peaks = ([cost[name] for cost in costs] for name in ("mb_per_second", "peak_mib"))
            curve(next(axes), f"{title}, by pages", pages, speeds, "MB of XML a second", peaks)
        seconds = [size["evaluation_seconds"] for size in sizes if size["evaluation_seconds"] is not None]
        if self.panels(figures) == 3:
            curve(next(axes), "evaluation by pages of the dump", pages, seconds, "seconds")


def _speed(cost: Prepared) -> str:
    return f"{cost['mb_per_second']:,.2f}"


def _peak(cost: Prepared) -> str:
    return f"{cost['peak_mib']:,.0f}"


def _run(script: str, *overrides: str) -> tuple[float, float, float]:
    """Run a script; return its seconds, and of all its processes the CPU seconds and the peak of their memory in MiB.

    What processes share is counted once (PSS), where the system tells; elsewhere what each has of its own (USS).

    Raises:
        OutsideError: it fails; the message is its own.
    """
    start = time.perf_counter()
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *overrides]
    worked: dict[int, float] = {}
    peak = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            while True:
                try:
                    _, errors = process.communicate(timeout=SAMPLED)
                    break
                except subprocess.TimeoutExpired:
                    peak = max(peak, _memory(process.pid, worked))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = errors.strip().splitlines()
        raise OutsideError(f"scripts/{script}.py: {lines[-1] if lines else f'status {process.returncode}'}")
    return time.perf_counter() - start, sum(worked.values()), peak / MIB


def _memory(pid: int, worked: dict[int, float]) -> float:
    """Return the bytes that a process and those that it has started take; note how long each has worked."""
    total = 0.0
    try:
        family = psutil.Process(pid)
        members = [family, *family.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return total
    for member in members:
        try:
            info, times = member.memory_full_info(), member.cpu_times()
        except psutil.Error:
            continue
        total += getattr(info, "pss", info.uss)
        worked[member.pid] = times.user + times.system
    return total
