"""Checkpoints: the best one and the last one."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from minillm.errors import SettingError
from minillm.files import make_folder, written_whole


class Checkpointing(ModelCheckpoint):
    """Keeps ``best.ckpt``, of the epoch with the lowest ``val/loss``, and ``last.ckpt``, to resume from.

    Args:
        dirpath: folder of the checkpoints.
        monitor: the figure that decides which is best; the lower the better unless ``mode`` is max.
        mode: ``min`` or ``max``.
        every_n_train_steps: write ``last.ckpt`` so often within an epoch, besides at its end; None: only there.

    Raises:
        SettingError: every_n_train_steps under 1, or a folder that cannot be written.
    """

    def __init__(
        self, dirpath: str, monitor: str = "val/loss", mode: str = "min", every_n_train_steps: int | None = None
    ) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise SettingError("every_n_train_steps", every_n_train_steps, "must be at least 1, or null")
        try:
            make_folder(dirpath)
        except OSError as error:
            raise SettingError("dirpath", dirpath, f"is no folder to write in ({error.strerror})") from error
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.last_every_n_train_steps = every_n_train_steps

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where a checkpoint left off; the best one so far is copied to a new folder, and stays the best."""
        best = Path(state_dict["best_model_path"])
        if self.dirpath is not None and state_dict["dirpath"] != self.dirpath and best.is_file():
            copy = Path(self.dirpath) / best.name
            _copy(best, copy)
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": str(copy),
                "kth_best_model_path": str(copy),
                "best_k_models": {str(copy): state_dict["best_model_score"]},
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Write ``last.ckpt`` every so many steps."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        interval = self.last_every_n_train_steps
        if interval and trainer.global_step % interval == 0 and trainer.global_step != self._last_global_step_saved:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``last.ckpt`` behind the epoch's validation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


@rank_zero_only
def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)
