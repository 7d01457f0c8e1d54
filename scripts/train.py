"""Train a model: `python scripts/train.py model=minigpt data.vocab_size=5000`; `--help` says more."""

import minillm.starting  # noqa: F401 # a signal is answered from here on

# isort: split
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from minillm import console
from minillm.callbacks import Interruption
from minillm.callbacks.checkpointing import begin_log
from minillm.checkpoint import build_network, outline_network
from minillm.cli import script
from minillm.configuration import instantiate, plain
from minillm.data import TextDataModule
from minillm.errors import SettingError
from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.before_after import before_and_after
from minillm.evaluation.dashboards import log_evaluation
from minillm.evaluation.evaluation import write_evaluation
from minillm.evaluation.plots import draw, read_curves
from minillm.evaluation.report import write_report
from minillm.evaluation.results import figures, test_figures
from minillm.evaluation.text import funnel_of, loaders_of, splits_of
from minillm.initializing import fill, initial_tokenizer, initialized, origin_if_at_hand
from minillm.language_model import load
from minillm.launch import agreed, is_further_process
from minillm.planning import budget_arguments, is_to_choose, planned, with_checked_budget, with_form
from minillm.resuming import check_resumable, check_vocabulary, completed, how_to_go_on, record, resume_arguments
from minillm.run_folder import check_unused
from minillm.signals import signals
from minillm.training import TrainingModule, log_hyperparameters, seed_everything

log = logging.getLogger(__name__)

GROUPS = ("data", "tokenizer", "model", "optimizer", "scheduler", "training", "callbacks", "logger", "trainer")
SETTINGS = {
    "seed": int,
    "budget": str | None,
    "resume": str | None,
    "ckpt_path": str | None,
    "init_from": str | None,
    "optimized_metric": str,
}
TEXTS = ("budget", "resume", "ckpt_path", "init_from")


def _arguments(arguments: Sequence[str]) -> list[str]:
    return budget_arguments(resume_arguments(arguments))


def _complete(config: DictConfig) -> DictConfig:
    return initialized(with_checked_budget(completed(config)))


class _Parts(NamedTuple):
    """All of a training that needs no data."""

    data: TextDataModule
    callbacks: dict[str, Any]
    loggers: list[Any]
    trainer: Any  # Lightning's; its own types say less than there is
    make_module: Callable[..., TrainingModule]


def _parts(config: DictConfig, settings: dict[str, Any]) -> _Parts:
    """Make them, and check that they fit together: a bad setting is found before hours of reading articles."""
    tokenizer = instantiate(config, "tokenizer") if config.init_from is None else initial_tokenizer(config)
    data = instantiate(config, "data", tokenizer=tokenizer)
    optimizer, scheduler = instantiate(config, "optimizer"), instantiate(config, "scheduler")
    callbacks = instantiate(config, "callbacks")
    loggers = list(instantiate(config, "logger").values())
    trainer = instantiate(config, "trainer", callbacks=[*callbacks.values(), Interruption()], logger=loggers)
    make_module = partial(instantiate, config, "training", optimizer=optimizer, scheduler=scheduler, settings=settings)
    outline = outline_network(settings["model"], config.data.vocab_size)
    make_module(network=outline, tokenizer=data.unfitted_tokenizer).check_trainer(trainer)
    return _Parts(data, callbacks, loggers, trainer, make_module)


@script("train", SETTINGS, TEXTS, GROUPS, arguments=_arguments, completed=_complete)
def train(config: DictConfig) -> float | None:
    """Prepare the data, train, test the best checkpoint; return the figure that a sweep optimizes."""
    # The first of several processes checks everything and prepares the data, then the others begin.
    corpus = agreed("corpus") if is_further_process() else None
    run = Path(config.paths.output_dir)
    check_unused(run, config.ckpt_path, config.resume is not None)
    if is_to_choose(config):
        first = with_form(config)
        parts = _parts(first, plain(first))
        config = planned(config, parts.data, parts.trainer)
    seed_everything(config.seed)
    settings = plain(config)
    data, callbacks, loggers, trainer, make_module = _parts(config, settings)
    if config.ckpt_path is not None:
        check_resumable(config.ckpt_path, settings)
    if config.resume is not None:
        record(config)

    if corpus is None:
        agreed("corpus", data.prepare)
    else:
        data.follow(corpus)
    data.setup()
    console.show_data(data.manifest, data.corpus.prepare())
    tokenizer = data.tokenizer
    if config.ckpt_path is not None:
        check_vocabulary(config.ckpt_path, tokenizer.to_json())

    network = build_network(settings["model"], len(tokenizer))
    if config.init_from is not None and config.ckpt_path is None:
        fill(network, config.init_from)
    console.show_network(network)
    module = make_module(network=network, tokenizer=tokenizer)
    signals.how = partial(how_to_go_on, run)
    if config.ckpt_path is None:
        begin_log(loggers)
    trainer.fit(module, data, ckpt_path=config.ckpt_path)
    if "pruning" in callbacks and callbacks["pruning"].pruned:
        return None

    best = trainer.checkpoint_callback.best_model_path
    if not best:
        log.warning("nothing was validated, so there is no best checkpoint to test")
        return None
    model = load(best, str(trainer.strategy.root_device), trusted=[settings["model"]["_target_"]])

    prompts: list[str] = []
    if config.get("evaluation"):  # it measures the test split too: once is enough
        evaluator = instantiate(config, "evaluation")
        articles: dict[str, ArticleSums] = {}
        evaluation = evaluator(
            model, splits_of(data), best, loaders=loaders_of(data), funnel=funnel_of(data), articles=articles
        )
        if config.init_from is not None and (before := origin_if_at_hand(config)) is not None:
            trusted = [settings["model"]["_target_"]]
            evaluation["init_from"] = before_and_after(config.init_from, before, model, data, trusted)
        test = test_figures(evaluation)
        if trainer.is_global_zero:
            for logger in loggers:
                logger.log_metrics(test, trainer.global_step)
                logger.save()
            write_evaluation(evaluation, run, articles=articles)
            write_report(evaluation, run)
            log_evaluation(loggers, evaluation, draw(evaluation, read_curves(run)), trainer.global_step)
        console.show_evaluation(evaluation)
        prompts = [sample["prompt"] for sample in evaluation["text"]["samples"]]
        metrics = {**model.metrics, **test, **figures(evaluation)}
    else:
        trainer.test(module, data, ckpt_path=best, verbose=False)
        metrics = {**model.metrics, **{name: float(value) for name, value in trainer.callback_metrics.items()}}
        if "text_samples" in callbacks:
            console.show_samples(callbacks["text_samples"].sample(model))
        console.show_results(metrics)
    log_hyperparameters(loggers, settings, metrics)
    console.show_next_steps(config.paths.output_dir, prompts)
    if config.optimized_metric not in metrics:
        raise SettingError("optimized_metric", config.optimized_metric, f"was not logged; {', '.join(metrics)} were")
    return metrics[config.optimized_metric]


if __name__ == "__main__":
    train()
