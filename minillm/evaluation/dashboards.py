"""An evaluation in TensorBoard."""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from minillm.evaluation.results import verdict_of
from minillm.evaluation.schema import Evaluation, Finding, Verdict

MARKS: dict[Verdict, str] = {"fault": "🟥", "weak": "🟨", "fine": "🟩", "none": "⬜"}


def log_evaluation(loggers: Iterable[Logger], evaluation: Evaluation, figures: Mapping[str, Figure], step: int) -> None:
    """Write an evaluation's findings and samples to the text tab, and its plots to the images tab.

    Args:
        loggers: only TensorBoard's are used.
        evaluation: the content of evaluation.json.
        figures: the plots by name, from `minillm.evaluation.plots.draw`.
        step: the checkpoint's training step.
    """
    for writer in _writers(loggers):
        writer.add_text("evaluation/findings", _findings(evaluation), step)
        for sample in evaluation["text"]["samples"]:
            writer.add_text(f"evaluation/{sample['prompt']}", sample["prompt"] + sample["generated"], step)
        for name, figure in figures.items():
            writer.add_image(f"evaluation/{name}", _pixels(figure), step, dataformats="HWC")
        writer.flush()


def _findings(evaluation: Evaluation) -> str:
    """Return the findings as Markdown, in which colours are only possible as emoji."""
    head = {
        "fault": "# 🟥 NOT TO BE TRUSTED",
        "weak": "# 🟨 These figures can be believed; the model is weak",
    }.get(verdict_of(evaluation), "# 🟩 These figures can be believed")
    audit = cast(Mapping[str, Finding], evaluation["audit"])
    rows = [f"| {MARKS[check['verdict']]} | {name} | {check['finding']} |" for name, check in audit.items()]
    return "\n".join([head, "", "| | check | finding |", "|---|---|---|", *rows])


def _pixels(figure: Figure) -> np.ndarray:
    """Return a figure as an image (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _writers(loggers: Iterable[Logger]) -> Iterator[SummaryWriter]:
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            yield logger.experiment
