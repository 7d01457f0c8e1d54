"""Export a trained model to other programs' formats, and load theirs."""

from minillm.export.exporting import ExportFormat, TrainedRun, check_target, export

__all__ = ["ExportFormat", "TrainedRun", "check_target", "export"]
