"""Train a model: `python scripts/train.py model=minigpt data.vocab_size=5000`; `--help` says more."""

import logging

from omegaconf import DictConfig

from minillm import console
from minillm.checkpoint import build_network, check_resumable
from minillm.cli import script
from minillm.configuration import instantiate, plain
from minillm.errors import SettingError
from minillm.evaluation.baselines import NgramBaselines
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
    trainer.fit(module, data, ckpt_path=config.ckpt_path)

    best = trainer.checkpoint_callback.best_model_path
    if not best:
        log.warning("nothing was validated, so there is no best checkpoint to test")
        return None
    trainer.test(module, data, ckpt_path=best, verbose=False)
    model = load(best)
    metrics = {**model.metrics, **{name: float(value) for name, value in trainer.callback_metrics.items()}}
    log_hyperparameters(loggers, settings, metrics)

    baselines = NgramBaselines(len(tokenizer))
    baselines.fit(document[1:-1] for document in data.splits["train"])
    scores = {split: baselines.score(document[1:-1] for document in data.splits[split]) for split in ("val", "test")}
    if "text_samples" in callbacks:
        console.show_samples(callbacks["text_samples"].sample(model))
    console.show_results(metrics, scores)
    console.show_next_steps(config.paths.output_dir)
    if config.optimized_metric not in metrics:
        raise SettingError("optimized_metric", config.optimized_metric, f"was not logged; {', '.join(metrics)} were")
    return metrics[config.optimized_metric]


if __name__ == "__main__":
    train()
