"""Let a trained model write: `python scripts/generate.py prompt="En el año 1492,"`; `--help` says more."""

import sys

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.checkpoint import find_checkpoint
from minillm.cli import script
from minillm.configuration import instantiate
from minillm.errors import SettingError
from minillm.language_model import load
from minillm.writing import Writing, describe, interact, read_prompts, write_texts

SETTINGS = {
    "ckpt": str,
    "prompt": str,
    "prompts_file": str | None,
    "interactive": bool,
    "n": int,
    "output": str | None,
    "max_new_tokens": int,
    "batch_size": int,
    "seed": int | None,
    "trusted": list[str],
}


@script("generate", SETTINGS, texts=("prompt", "prompts_file", "output"))
def generate(config: DictConfig) -> None:
    """Write texts to the terminal as they are generated, or many to a file."""
    if config.interactive and (config.prompts_file is not None or config.output is not None):
        raise SettingError("interactive", True, "takes what is typed; leave out prompts_file and output")
    checkpoint = find_checkpoint(config.ckpt)
    model = load(checkpoint, trusted=list(config.trusted))
    sampling = instantiate(config, "sampling")
    writing = Writing(model, sampling, config.max_new_tokens, config.n, config.seed, config.batch_size)
    print(describe(model, checkpoint), file=sys.stderr, flush=True)
    if config.interactive:
        interact(writing)
    elif config.prompts_file is None and config.output is None:
        writing.stream(config.prompt, sys.stdout)
        if notice := model.notice(config.prompt):
            print(notice, file=sys.stderr)
    else:
        prompts = (
            iter([("prompt", config.prompt)]) if config.prompts_file is None else read_prompts(config.prompts_file)
        )
        write_texts(writing, prompts, config.output)


if __name__ == "__main__":
    generate()
