"""Evaluate a checkpoint: `python scripts/evaluate.py ckpt=PATH`; `data=files data.source.path=...`: on other text."""

from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm import console
from minillm.checkpoint import find_checkpoint
from minillm.cli import script
from minillm.configuration import instantiate
from minillm.data import TextDataModule
from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.evaluation import write_evaluation
from minillm.evaluation.report import write_report
from minillm.evaluation.text import (
    funnel_of,
    loaders_of,
    other_text,
    splits_of,
    training_data,
    training_data_if_at_hand,
)
from minillm.language_model import load


@script("evaluate", {"ckpt": str, "seed": int, "trusted": list[str]}, groups=("evaluation",))
def evaluate(config: DictConfig) -> None:
    """Compute every figure, check whether they can be believed, and write them down."""
    checkpoint = find_checkpoint(config.ckpt)
    trusted = list(config.trusted)
    model = load(checkpoint, trusted=trusted)
    evaluator = instantiate(config, "evaluation")
    with ExitStack() as files:
        name = None
        data: TextDataModule | None
        if "data" not in config:
            data = training_data(model, config.paths.data_dir, trusted)
            splits = splits_of(data)
        else:
            chosen = instantiate(config, "data", tokenizer=model.tokenizer)
            data = training_data_if_at_hand(model, config.paths.data_dir, trusted)
            splits = splits_of(data)
            if data is None or data.corpus.fingerprint != chosen.corpus.fingerprint:
                splits["test"] = files.enter_context(other_text(chosen, model))
                name = str(config.data.source.get("path") or chosen.corpus.source.name)
        articles: dict[str, ArticleSums] = {}
        evaluation = evaluator(
            model,
            splits,
            checkpoint,
            loaders=loaders_of(data),
            other_text=name,
            funnel=funnel_of(data),
            articles=articles,
        )
    write_evaluation(evaluation, config.paths.output_dir, articles=articles)
    report = write_report(evaluation, Path(config.paths.output_dir))
    console.show_evaluation(evaluation)
    console.show_report(report)


if __name__ == "__main__":
    evaluate()
