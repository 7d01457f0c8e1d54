"""Logged figures in TensorBoard."""

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from minillm.training.csv_logger import epochs_from_1


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, which a resumed run shows each step of once."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record figures; epochs are counted from 1."""
        super().log_metrics(epochs_from_1(metrics), step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Have TensorBoard leave out what was logged of this step and of later ones.

        What is on disk stays: a mark tells its readers that a session begins at the step. They take the first mark of
        all for the beginning of the log, so there are two.
        """
        start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        for _ in range(2):
            self.experiment._get_file_writer().add_event(start, step)
