"""Train a model: `python scripts/train.py model=minigpt data.vocab_size=5000`; `--help` says more."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from minillm import console
from minillm.checkpoint import build_network, check_resumable
from minillm.cli import script
from minillm.configuration import instantiate, plain
from minillm.errors import SettingError
from minillm.evaluation.dashboards import log_evaluation, log_layout
from minillm.evaluation.evaluation import write_evaluation
from minillm.evaluation.plots import draw, read_curves
from minillm.evaluation.report import write_report
from minillm.evaluation.results import figures
from minillm.evaluation.text import funnel_of, loaders_of, splits_of
from minillm.language_model import load
from minillm.training import log_hyperparameters, seed_everything

log = logging.getLogger(__name__)


@script("train", {"seed": int, "ckpt_path": str | None, "optimized_metric": str})
def train(config: DictConfig) -> float | None:
    """Prepare the data, train, test the best checkpoint; return the figure that a sweep optimizes."""
    seed_everything(config.seed)
    settings = plain(config)

    # All that needs no data comes first: a bad setting is found before hours of reading articles.
    data = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"))
    optimizer, scheduler = instantiate(config, "optimizer"), instantiate(config, "scheduler")
    callbacks = instantiate(config, "callbacks")
    loggers = list(instantiate(config, "logger").values())
    trainer = instantiate(config, "trainer", callbacks=list(callbacks.values()), logger=loggers)

    data.prepare_data()
    data.setup()
    console.show_data(data.manifest)
    tokenizer = data.tokenizer
    if config.ckpt_path is not None:
        check_resumable(config.ckpt_path, settings, tokenizer.to_json())

    network = build_network(settings["model"], len(tokenizer))
    console.show_network(network)
    module = instantiate(
        config,
        "training",
        network=network,
        tokenizer=tokenizer,
        optimizer=optimizer,
        scheduler=scheduler,
        settings=settings,
    )
    log_layout(loggers)
    trainer.fit(module, data, ckpt_path=config.ckpt_path)
    if "pruning" in callbacks and callbacks["pruning"].pruned:
        return None

    best = trainer.checkpoint_callback.best_model_path
    if not best:
        log.warning("nothing was validated, so there is no best checkpoint to test")
        return None
    trainer.test(module, data, ckpt_path=best, verbose=False)
    model = load(best, str(trainer.strategy.root_device), trusted=[settings["model"]["_target_"]])
    metrics = {**model.metrics, **{name: float(value) for name, value in trainer.callback_metrics.items()}}

    if config.evaluation:
        evaluator = instantiate(config, "evaluation")
        evaluation = evaluator(
            model, splits_of(data), best, loaders=loaders_of(data), reported=metrics, funnel=funnel_of(data)
        )
        if trainer.is_global_zero:
            run = Path(config.paths.output_dir)
            write_evaluation(evaluation, run)
            write_report(evaluation, run)
            log_evaluation(loggers, evaluation, draw(evaluation, read_curves(run)), trainer.global_step)
        console.show_evaluation(evaluation)
        metrics |= figures(evaluation)
    else:
        if "text_samples" in callbacks:
            console.show_samples(callbacks["text_samples"].sample(model))
        console.show_results(metrics)
    log_hyperparameters(loggers, settings, metrics)
    console.show_next_steps(config.paths.output_dir)
    if config.optimized_metric not in metrics:
        raise SettingError("optimized_metric", config.optimized_metric, f"was not logged; {', '.join(metrics)} were")
    return metrics[config.optimized_metric]


if __name__ == "__main__":
    train()
