"""What a dump costs as it grows: memory and speed of preparing it, and the time of an evaluation on it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minillm.benchmarking.benchmark import Session
from minillm.benchmarking.dumps import write_dump
from minillm.benchmarking.report import Report, Spread, spread
from minillm.benchmarking.worker import run_script
from minillm.console import number_table
from minillm.errors import SettingError
from minillm.evaluation.results import EVALUATION
from minillm.progress import track

MB = 1e6


@dataclass(frozen=True)
class CorpusCosts:
    """Prepares dumps of several sizes with `scripts/prepare.py`, in one file and in parts.

    Of each: seconds, cpu_seconds, mb_per_second (of XML, from the compressed dump to encoded splits) and peak_mib, of
    all processes. Then `scripts/train.py` trains a network for a few steps and evaluates it in evaluation_seconds.

    Args:
        pages: of the dumps, see `write_dump`.
        parts: files of a dump in parts.
        steps: of training; 0: nothing is trained and evaluated.
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

    def measure(self, session: Session) -> Report:
        """Return what each size costs.

        Raises:
            OutsideError: a script fails; the message is its own.
        """
        pages = sorted(set(self.pages))
        sizes = [self._costs(session.new_path("dump"), number) for number in track(pages, "dumps", len(pages))]
        parts = f"{self.parts} parts"
        columns = ("MB of XML", "articles", "MB/s", "MiB", f"MB/s, {parts}", "MiB", "evaluation, s")
        table = number_table("Corpus: scripts/prepare.py on dumps; MiB: peak of all its processes", "pages", *columns)
        charts: dict[str, dict[str, Spread]] = {}
        for size in sizes:
            ways = {"one file": size["one_file"], parts: size["in_parts"]}
            costs = [(f"{cost['mb_per_second']:,.2f}", f"{cost['peak_mib']:,.0f}") for cost in ways.values()]
            evaluated = f"{size['evaluation_seconds']:,.0f}" if self.steps else ""
            about = (f"{size['pages']:,}", f"{size['xml_mb']:,.1f}", f"{size['articles']:,}")
            table.add_row(*about, *costs[0], *costs[1], evaluated)
            for title, name in {"preparing, MB of XML/s": "mb_per_second", "peak memory, MiB": "peak_mib"}.items():
                bars = {f"{size['pages']:,}, {way}": spread([cost[name]]) for way, cost in ways.items()}
                charts[title] = charts.get(title, {}) | bars
        return Report({"parts": self.parts, "sizes": sizes}, table, charts)

    def _costs(self, folder: Path, pages: int) -> dict[str, Any]:
        folder.mkdir(parents=True)
        whole, parts = folder / "dump.xml.bz2", [folder / f"dump-{number + 1}.xml.bz2" for number in range(self.parts)]
        size, _ = write_dump([whole], pages), write_dump(parts, pages)
        one_file, articles = prepare(whole, size, folder / "whole", self.common)
        in_parts, _ = prepare(folder / "dump-*.xml.bz2", size, folder / "parts", self.common)
        seconds = None
        if self.steps:
            short = (f"trainer.max_steps={self.steps}", f"hydra.run.dir={folder / 'run'}")
            run_script("train", *_data(whole, folder / "whole"), *self.common, *self.training, *short)
            seconds = json.loads((folder / "run" / EVALUATION).read_text(encoding="utf-8"))["seconds"]
        shutil.rmtree(folder)  # the next one is larger
        about = {"pages": pages, "xml_mb": size / MB, "articles": articles}
        return {**about, "one_file": one_file, "in_parts": in_parts, "evaluation_seconds": seconds}


def prepare(
    dump: Path, size: int, data_dir: Path, overrides: Sequence[str], cores: Sequence[int] | None = None
) -> tuple[dict[str, float], int]:
    """Prepare a dump with `scripts/prepare.py`; return what that cost, and the number of articles kept.

    Args:
        dump: path or pattern of its files.
        size: bytes of XML.
        data_dir: for the prepared data.
        overrides: of the script.
        cores: see `run_script`.

    Raises:
        OutsideError: the script fails; the message is its own.
    """
    cost = run_script("prepare", *_data(dump, data_dir), *overrides, cores=cores)
    [manifest] = (data_dir / "corpus").glob("*/manifest.json")
    articles = json.loads(manifest.read_text(encoding="utf-8"))["funnel"]["kept"]
    return {**cost._asdict(), "mb_per_second": size / MB / cost.seconds}, articles


def _data(dump: Path, data_dir: Path) -> tuple[str, ...]:
    return ("data=dump", f"data.source.path={dump}", "data.num_articles=null", f"paths.data_dir={data_dir}")
