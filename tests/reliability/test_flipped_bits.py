"""One bit flipped in each kind of file that is read back: noticed, or without any effect."""

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch

from minillm.corpus import SampleSource
from minillm.corpus.lock import LockWriter, read_lock
from minillm.data import TextDataModule
from minillm.errors import MiniLLMError
from minillm.evaluation.comparison import compare
from minillm.evaluation.plots import read_curves
from minillm.language_model import load
from minillm.training import MetricsCSV

FLIPS = 8  # of each kind
Outcome = Literal["noticed", "harmless", "silent"]
Use = Callable[[], Any]


class Kind(NamedTuple):
    """Files that are read back.

    Args:
        files: what to damage; looked up before each flip, for some are made again after it.
        use: reads them as the program does and returns all that came out.
        whole: whether any other result must be noticed; False for files that people may edit: there it is enough that
            nothing raises but an error of one line.
    """

    files: Callable[[], list[Path]]
    use: Use
    whole: bool = True


def flips(kind: Kind, count: int, seed: int, caplog: pytest.LogCaptureFixture) -> Counter[Outcome]:
    """Flip one bit at a time in a kind of file and use what is there; count what came of it."""
    draw = random.Random(seed)
    caplog.clear()
    expected = kind.use()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    outcomes: Counter[Outcome] = Counter()
    for _ in range(count):
        file = draw.choice(kind.files())
        before = file.read_bytes()
        flipped = bytearray(before)
        flipped[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        caplog.clear()
        try:
            result = kind.use()
        except MiniLLMError as error:
            lines = [str(error)]
        else:
            lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        outcome: Outcome = "noticed" if lines else "harmless" if result == expected else "silent"
        outcomes[outcome] += 1
        assert not any("\n" in line for line in lines)
        if kind.whole and outcome == "silent":
            place = next(n for n, (one, other) in enumerate(zip(before, flipped, strict=True)) if one != other)
            print(f"{file}: byte {place}, {before[place]:02x} -> {flipped[place]:02x}, passed unnoticed")
        if file.exists() and file.read_bytes() == flipped:
            file.write_bytes(before)
    return outcomes


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def kinds(make_data: Callable[..., TextDataModule], run_folder: Path, tmp_path: Path) -> dict[str, Kind]:
    """All kinds of files, those of a small data module and of a trained run."""
    data_dir, run = tmp_path / "data", tmp_path / "run"

    def prepared() -> TextDataModule:
        data = make_data(data_dir=data_dir, num_articles=40)
        data.prepare_data()
        data.setup()
        return data

    def corpus() -> Any:
        data = prepared()
        articles = [data.corpus.articles(name).to_list() for name in ("train", "val", "test")]
        return articles, data.corpus.manifest, content(data.corpus.prepare())

    def encoded() -> Any:
        data = prepared()
        tokens = [[ids.tolist() for ids in split] for split in data.splits.values()]
        return tokens, data.tokenizer.to_json(), data.manifest, content(data.folder)

    def raw() -> Any:
        shutil.rmtree(data_dir / "corpus", ignore_errors=True)  # to have it read again
        try:
            return corpus()
        finally:
            for aside in (data_dir / "raw").glob("*.damaged-*"):
                aside.unlink()

    def checkpoint() -> Any:
        model = load(run / "checkpoints" / "best.ckpt", "cpu")
        weights = {name: value.view(torch.uint8).tolist() for name, value in model.network.state_dict().items()}
        return weights, model.config, model.metrics, model.tokenizer.to_json()

    def compared() -> Any:
        comparison = compare([str(run), str(run_folder)], ["test/loss", "val/loss"], "test/loss")
        return comparison.csv(), read_curves(run).to_csv()

    def resumed() -> Any:
        path = run / "metrics.csv"
        before = path.read_bytes()
        logger = MetricsCSV(str(run))
        logger.log_metrics({"epoch": 0.0, "train/loss": 1.0}, 5)
        logger.save()
        after = path.read_bytes()
        path.write_bytes(before)
        return after

    shutil.copytree(run_folder, run)
    prepared()
    lock = tmp_path / "corpus.lock.json"
    with LockWriter(lock, {"name": "wikipedia"}) as writer:
        for article in SampleSource().articles(9, ()):
            writer.add(replace(article, revision_id=9 * article.page_id, wikitext_sha256=article.sha256))
    return {
        "corpus": Kind(lambda: [path for path in (data_dir / "corpus").glob("*/*") if path.stat().st_size], corpus),
        "encoded": Kind(lambda: list((data_dir / "encoded").glob("*/*")), encoded),
        "raw store": Kind(lambda: list((data_dir / "raw").glob("*.sqlite")), raw),
        "checkpoint": Kind(lambda: [run / "checkpoints" / "best.ckpt"], checkpoint),
        "evaluation": Kind(lambda: [run / "evaluation" / "evaluation.json"], compared),
        "articles": Kind(lambda: [run / "evaluation" / "articles.parquet"], compared),
        "lock": Kind(lambda: [lock], lambda: read_lock(str(lock))),
        "configuration": Kind(lambda: list((run / ".hydra").iterdir()), compared, whole=False),
        "metrics, compared": Kind(lambda: [run / "metrics.csv"], compared, whole=False),
        "metrics, resumed": Kind(lambda: [run / "metrics.csv"], resumed, whole=False),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("corpus", "encoded", "raw store", "checkpoint", "evaluation", "articles", "lock"),
        *("configuration", "metrics, compared", "metrics, resumed"),
    ],
)
def test_a_flipped_bit_is_noticed_or_harmless(
    kinds: dict[str, Kind], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = flips(kinds[name], FLIPS, 0, caplog)
    print(f"{name}: {dict(outcomes)}")
    assert outcomes.total() == FLIPS
    if kinds[name].whole:
        assert outcomes["silent"] == 0
