"""Let a trained model write: `python scripts/generate.py ckpt=PATH prompt="En el año 1492,"`."""

import sys

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.checkpoint import find_checkpoint
from minillm.cli import script
from minillm.configuration import instantiate
from minillm.language_model import load

SETTINGS = {"ckpt": str, "prompt": str, "max_new_tokens": int, "seed": int | None, "trusted": list[str]}


@script("generate", SETTINGS, texts=("prompt",))
def generate(config: DictConfig) -> None:
    """Write the prompt and its continuation to the terminal, token by token."""
    model = load(find_checkpoint(config.ckpt), trusted=list(config.trusted))
    for piece in model.stream(config.prompt, config.max_new_tokens, instantiate(config, "sampling"), config.seed):
        print(piece, end="", flush=True)
    print(flush=True)
    if notice := model.notice(config.prompt):
        print(notice, file=sys.stderr)


if __name__ == "__main__":
    generate()
