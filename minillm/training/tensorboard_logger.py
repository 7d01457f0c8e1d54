"""Logged figures in TensorBoard."""

from collections.abc import Mapping
from functools import cached_property

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

# The charts that TensorBoard opens on: it shows groups in the order of the alphabet, and this one comes first.
CHARTS = {name: f"curves/{name}" for name in ("loss", "bits_per_byte", "tokens_per_second")}
SPLITS = ("train", "val")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, with the curves that matter first; a resumed run shows each step once.

    TensorBoard draws one curve per run in a chart and gives each run a colour. So the charts ``curves/...`` are written
    as two further runs, ``train`` and ``val``, in folders of these names within the log's folder. The log itself has
    every figure by its own name, without Lightning's ``epoch``.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record figures."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
        for name, value in metrics.items():
            split, _, figure = name.partition("/")
            if split in SPLITS and figure in CHARTS:
                self._curves[split].add_scalar(CHARTS[figure], value, step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Have TensorBoard leave out what was logged of this step and of later ones.

        What is on disk stays: a mark tells its readers that a session begins at the step. They take the first mark of
        all for the beginning of the log, so there are two.
        """
        start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        for writer in (self.experiment, *self._curves.values()):
            for _ in range(2):
                writer._get_file_writer().add_event(start, step)

    @rank_zero_only
    def save(self) -> None:
        """Write all that was logged to disk."""
        super().save()
        for writer in self._curves.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write all that was logged to disk, and close the files; they are opened again where more is logged."""
        super().finalize(status)
        for writer in self._curves.values():
            writer.close()

    @cached_property
    def _curves(self) -> dict[str, SummaryWriter]:
        return {split: SummaryWriter(f"{self.log_dir}/{split}", **self._kwargs) for split in SPLITS}
