"""Write a model for other programs: `python scripts/export.py ckpt=latest format=transformers path=my_model/`."""

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.cli import script
from minillm.configuration import instantiate
from minillm.export import TrainedRun, check_target, export

SETTINGS = {"ckpt": str, "path": str | None, "trusted": list[str]}


@script("export", SETTINGS, texts=("path",), groups=("format",))
def export_model(config: DictConfig) -> None:
    """Open the checkpoint, and write the folder whole or not at all."""
    target = check_target(config.path)
    chosen = instantiate(config, "format")
    run = TrainedRun.of(config.ckpt, config.paths.data_dir, list(config.trusted))
    print(f"wrote {export(run, chosen, target)}")


if __name__ == "__main__":
    export_model()
