"""Checkpoints that are on disk whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from minillm.errors import OutsideError
from minillm.files import written_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has it on disk, then moves it there.

    Lightning's own way is a file in the system's temporary folder, which a move to another disk copies: a process that
    dies meanwhile leaves half of it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OutsideError: it cannot be written; what was at the path is kept.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # PyTorch makes a full disk a RuntimeError
            raise OutsideError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error
