"""A trained model in the formats of other programs, and back."""

from minillm.export.exporting import ExportFormat, TrainedRun, check_target, export

__all__ = ["ExportFormat", "TrainedRun", "check_target", "export"]
