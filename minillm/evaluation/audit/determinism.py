"""Whether the same text always gives the same figures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.data.batching import Windows
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

LOGITS_AT_ONCE = 2**24  # 64 MiB: bounds the memory


@dataclass(frozen=True)
class Determinism:
    """Reads the same text twice, and again among other texts: the probabilities of its tokens must not change.

    Active dropout or noise changes figures at random. Batch normalization, or experts with a capacity per batch, make
    them depend on the other texts in the batch.

    The text has the same position in batches of the same shape, so that numbers are computed in the same order.

    Args:
        tolerance: allowed change of a token's surprisal, in nats. Rounding in float32 gives about 1e-5, and figures are
            shown to 1e-3; dropout of 0.1 changes it by 0.1 and more.
        rows: texts per batch.

    Raises:
        SettingError: a value outside its range.
    """

    tolerance: float = 1e-3
    rows: int = 8

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise SettingError("tolerance", self.tolerance, "must be at least 0, such as 1e-3")
        if self.rows < 3:
            raise SettingError("rows", self.rows, "must be at least 3: the text twice, and another")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether repetition, or other texts in the batch, change the probabilities of a text."""
        windows = Windows(subject.samples["test"].documents, subject.max_length)
        longest = np.argsort(-windows.lengths, kind="stable")
        length = int(windows.lengths[longest[0]])
        rows = max(3, min(self.rows, LOGITS_AT_ONCE // (length * subject.vocab_size)))
        chosen = [index for index in longest[: rows - 1].tolist() if windows.lengths[index] == length]
        batch = windows.__getitems__(chosen)
        text, targets = batch["inputs"][:1], batch["targets"][0]
        others = batch["inputs"][1:] if len(chosen) > 1 else text.flip(1)
        # In the first and the last row: an expert's capacity may be exhausted only for the last.
        among = torch.cat([text, others, text])
        first, again = self._nats(subject, among, targets), self._nats(subject, among, targets)
        elsewhere = self._nats(subject, torch.cat([text, others.flip(1), text]), targets)
        repeated, composed = float((again - first).abs().max()), float((elsewhere - first).abs().max())
        verdict: Verdict = "fine" if repeated <= self.tolerance and composed <= self.tolerance else "fault"
        if not repeated <= self.tolerance:  # also if it is NaN
            sentence = (
                f"The network says something else each time: the same text read twice changed the surprise at a token "
                f"by up to {repeated:.2g} nats ({self.tolerance:g} is allowed), as dropout does that is still on when "
                "the network is tested."
            )
        elif not composed <= self.tolerance:
            sentence = (
                f"What the network says of a text depends on the other texts in the batch: they changed the surprise "
                f"at a token by up to {composed:.2g} nats ({self.tolerance:g} is allowed), as a batch normalization "
                "does."
            )
        else:
            sentence = (
                f"The same text gets the same figures: neither reading it twice nor other texts in the batch changed "
                f"the surprise at a token by more than {max(repeated, composed):.2g} nats ({self.tolerance:g} is "
                "allowed)."
            )
        return finding(verdict, sentence, self.tolerance, repeated=repeated, composed=composed)

    def _nats(self, subject: Subject, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of each target in the first and the last row, (2, T)."""
        logits = subject.logits(rows)[[0, -1]]
        given = targets.to(logits.device).expand(2, -1)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), given, reduction="none").cpu().double()
