"""Checkpoint files that are written atomically and with a checksum."""

from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from minillm.checkpoint import SealingWriter, read_checkpoint
from minillm.errors import OutsideError
from minillm.files import problem_of, written_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, syncs it to disk, then renames it.

    Lightning writes to the system's temporary folder. If that is on another disk, the move is a copy, and a process
    that dies during it leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OutsideError: it cannot be written; the old file at the path is kept.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary, temporary.open("wb") as file:
                sealing = SealingWriter(file)
                torch.save(checkpoint, cast(IO[bytes], sealing))  # PyTorch uses only the methods it has
                sealing.seal()
        except (OSError, RuntimeError) as error:
            raise OutsideError(f"{path}: cannot be written ({_problem(error)})") from error

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the content of a checkpoint.

        Raises:
            SettingError: it does not exist or is damaged.
            OutsideError: it cannot be read.
        """
        return read_checkpoint(path)


def _problem(error: BaseException) -> str:
    """Return why a write failed: PyTorch hides the system's error behind a RuntimeError about positions in the file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return problem_of(cause)
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())
