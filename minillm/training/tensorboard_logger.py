"""Logged metrics in TensorBoard."""

from collections.abc import Mapping
from functools import cached_property

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

# The charts that TensorBoard shows first: it sorts groups alphabetically.
CHARTS = {name: f"curves/{name}" for name in ("loss", "bits_per_byte", "tokens_per_second")}
SPLITS = ("train", "val")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger with the most important curves first; each step of a resumed run is shown once.

    TensorBoard draws one curve per run in a chart, with a colour per run. So the charts ``curves/...`` are written as
    two more runs, ``train`` and ``val``, in subfolders of these names. The log itself has every metric by its name,
    without Lightning's ``epoch``.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
        for name, value in metrics.items():
            split, _, figure = name.partition("/")
            if split in SPLITS and figure in CHARTS:
                self._curves[split].add_scalar(CHARTS[figure], value, step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Make TensorBoard ignore what was logged from this step on.

        The files keep it; a session start event makes readers ignore it. They take the first such event for the start
        of the log, so two are written.
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
        """Write all that was logged to disk, and close the files; later logging opens them again."""
        super().finalize(status)
        for writer in self._curves.values():
            writer.close()

    @cached_property
    def _curves(self) -> dict[str, SummaryWriter]:
        return {split: SummaryWriter(f"{self.log_dir}/{split}", **self._kwargs) for split in SPLITS}
