"""The HTML report of an evaluation."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from omegaconf import OmegaConf

from minillm.command import spelled
from minillm.evaluation import before_after
from minillm.evaluation.labels import EVALUATED, LABELS
from minillm.evaluation.page import render
from minillm.evaluation.plots import draw, read_curves
from minillm.evaluation.results import figures, intervals_of, sample_sentences
from minillm.evaluation.schema import Evaluation, SplitName
from minillm.files import written_whole

REPORT = Path("evaluation", "report.html")

# The original work's figures, where it reported them.
ORIGINAL = {
    "train/perplexity": "1.07",
    "val/perplexity": "1.21",
    "test/perplexity": "1.20",
    "train/accuracy": "0.9855",
    "val/accuracy": "0.9736",
    "train/loss": "0.0691",
    "val/loss": "0.1905",
}


def _by_split(*names: str) -> Iterator[tuple[str, str, str | None]]:
    for name in names:
        for split in get_args(SplitName):
            figure = f"{split}/{name}"
            yield f"{LABELS[name].text}, {split}", figure, ORIGINAL.get(figure)


# The first figures of the report, in two tables: label, name, and the original work's value or None.
HEADLINES = (
    tuple(_by_split(*(name for name in EVALUATED if name != "loss"))),
    (
        *_by_split("loss"),
        ("overfitting ratio", "overfitting/ratio", "2.7582"),
        ("generalization gap", "overfitting/gap", "0.1214"),
        ("prediction bias", "bias/prediction_bias", "211.8321"),
        ("absolute bias", "bias/absolute_bias", "239.4894"),
        ("bias variance", "bias/bias_variance", "563,029.6804"),
        ("BLEU-1", "text/bleu1", "0.0731"),
        ("BLEU-2", "text/bleu2", "0.0160"),
        ("BLEU-3", "text/bleu3", "0.0057"),
        ("BLEU-4", "text/bleu4", "0.0026"),
        ("one forward, ms", "latency/forward_ms/mean", "3.05"),
        ("its standard deviation", "latency/forward_ms/std", "0.63"),
    ),
)
# Results of `python scripts/train.py experiment=original_leak`, shown beside the original's figures.
LEAK = {
    "epochs": 8,
    "perplexity": {"train": "1.26", "val": "1.61", "test": "1.61"},
    "accuracy": {"train": "0.977", "val": "0.939"},
    "ratio": "2.09",
    "writes": "En el año 1492, 1492,,,,,,, nacida estadounidenses, alemanes siguen siguen siguen siguen",
}
# The original's figures that are impossible; the page explains why.
IMPOSSIBLE = ("train/", "val/", "test/", "overfitting/", "bias/absolute_bias")

CAPTIONS = {
    "loss": "Without label smoothing. Training: the batch at hand; validation: the whole split. Dotted and dashed:"
    " n-gram models on the validation split.",
    "learning rate": "As the schedule set it.",
    "token frequency": "Tokens ordered by how often they come in the test split, and the mean probability that the"
    " model gives them.",
    "accuracy by frequency": "On the test split, by the target's rank in the training text.",
    "calibration": "A model that is right as often as it is sure follows the dashed line.",
    "article lengths": "By split; equal shapes say that the splits are alike.",
    "data funnel": "From articles read to articles kept.",
}


def write_report(evaluation: Evaluation, run_dir: Path, name: str | Path = REPORT) -> Path:
    """Write ``evaluation/report.html`` into a folder, atomically, and return its path.

    Args:
        evaluation: the content of evaluation.json.
        run_dir: folder of the training or evaluation run that computed it; its ``.hydra/`` is read.
        name: another name within the folder.

    Raises:
        OSError: it cannot be written.
    """
    own = "model" in evaluation["config"]  # a model of this project, comparable with the original
    page = render(
        "report.html.jinja",
        evaluation=evaluation,
        figures=figures(evaluation),
        intervals=intervals_of(evaluation),
        samples=sample_sentences(evaluation["data"]),
        changed=before_after.sentences(evaluation["init_from"]) if "init_from" in evaluation else [],
        headlines=HEADLINES,
        comparable=own and _comparable(evaluation),
        leak=LEAK,
        impossible=IMPOSSIBLE,
        plots=draw(evaluation, read_curves(evaluation["run"] or run_dir)),
        captions=CAPTIONS,
        config=OmegaConf.to_yaml(evaluation["config"]),
        command=_command(evaluation, run_dir),
        run=Path(evaluation["run"] or run_dir).resolve().name if own else evaluation["checkpoint"],
    )
    path = run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        file.write_text(page, encoding="utf-8")
    return path


def _comparable(evaluation: Evaluation) -> bool:
    """Return whether figures are comparable with the original's: Spanish text and a word vocabulary."""
    if evaluation["data"].get("language", "es") != "es":
        return False
    tokenizer = evaluation["config"].get("tokenizer") or {}
    return "Word" in str(tokenizer.get("_target_", "WordTokenizer"))


def _command(evaluation: Evaluation, run_dir: Path) -> str:
    """Return the command that reproduces the figures."""
    script, overrides = "evaluate", []
    hydra = run_dir / ".hydra" / "hydra.yaml"
    if hydra.is_file():
        call = OmegaConf.load(hydra).hydra
        script, overrides = call.job.name, list(call.overrides.task)
    if script == "evaluate":  # name the checkpoint, since ckpt=latest may be another one later
        overrides = [f"ckpt={evaluation['checkpoint']}", *(each for each in overrides if not each.startswith("ckpt="))]
    return " ".join([spelled(script), *map(shlex.quote, overrides)])
