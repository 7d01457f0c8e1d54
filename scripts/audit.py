"""Audit any model: `python scripts/audit.py network=transformers network.path=DIR test=TEXTS train=TEXTS`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm import console
from minillm.cli import script
from minillm.configuration import instantiate, plain
from minillm.errors import SettingError
from minillm.evaluation.auditing import PAGE, audit

NOT_TRUSTWORTHY = 3  # exit status

SETTINGS = {
    "test": str | None,
    "train": str | None,
    "val": str | None,
    "text_field": str,
    "on_error": str,
    "reported": dict[str, float] | None,
    "seed": int,
}


@script("audit", SETTINGS, groups=("network", "evaluation"))
def main(config: DictConfig) -> None:
    """Compute every figure of a model, check whether they can be believed, and write them down."""
    settings = plain(config)
    if settings["test"] is None:
        raise SettingError("test", None, "must name the text that judges the model: a file, a folder or a glob")
    output_dir = Path(settings["paths"]["output_dir"])
    evaluation = audit(
        instantiate(config, "network"),
        **{name: settings[name] for name in ("test", "train", "val", "reported", "text_field", "on_error")},
        evaluator=instantiate(config, "evaluation"),
        output_dir=output_dir,
    )
    console.show_evaluation(evaluation, name="model")
    console.show_report(output_dir / PAGE)
    if not evaluation["trustworthy"]:
        sys.stdout.flush()
        sys.exit(NOT_TRUSTWORTHY)


if __name__ == "__main__":
    main()
