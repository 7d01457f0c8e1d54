"""Checkpoints that are on disk whole or not at all, and whose damage is noticed."""

from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from minillm.checkpoint import SealingWriter, read_checkpoint
from minillm.errors import OutsideError
from minillm.files import problem_of, written_whole


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
            with written_whole(path) as temporary, temporary.open("wb") as file:
                sealing = SealingWriter(file)
                torch.save(checkpoint, cast(IO[bytes], sealing))  # PyTorch asks for no more than it has
                sealing.seal()
        except (OSError, RuntimeError) as error:
            raise OutsideError(f"{path}: cannot be written ({_problem(error)})") from error

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what a checkpoint holds.

        Raises:
            SettingError: there is none, or it is damaged.
            OutsideError: it cannot be read.
        """
        return read_checkpoint(path)


def _problem(error: BaseException) -> str:
    """Return why a write failed: PyTorch makes what the system said a RuntimeError about positions in the file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return problem_of(cause)
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())
