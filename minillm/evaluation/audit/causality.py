"""Whether the network sees the tokens that it predicts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.data.batching import Windows
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject
from minillm.tokenization import SPECIAL_TOKENS

LOGITS_AT_ONCE = 2**24  # 64 MiB: bounds the memory
USUAL_LOGIT = 10.0
MASKED = -1e29  # smaller logits are those of tokens that a network does not have, or masks out


@dataclass(frozen=True)
class Causality:
    """Changes all tokens after a position, for every position of a window: no logit up to it may change.

    Every position is tested, since a mask can leak at a single one. Each needs a forward pass, so in a window of more
    than ``places`` tokens only this many positions are tested, evenly spaced; the finding says so.

    Args:
        tolerance: allowed change of a logit, in float32. A causal network computes the same numbers in the same order,
            so they change by 0 or by rounding (about 1e-6 for logits of 10, and ten times as much for logits of 100,
            for which the tolerance is scaled, too); a leak that helps prediction changes them by 1e-2 and more.
        windows: number of windows to test, the longest of the test split.
        places: positions of a window to test, which bounds the time for long windows.
        seed: of the replacement tokens.

    Raises:
        SettingError: a value outside its range.
    """

    tolerance: float = 1e-5
    windows: int = 1
    places: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise SettingError("tolerance", self.tolerance, "must be at least 0, such as 1e-5")
        if self.windows < 1:
            raise SettingError("windows", self.windows, "must be at least 1")
        if self.places < 1:
            raise SettingError("places", self.places, "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether logits change when later tokens change, and at which positions."""
        windows = Windows(subject.samples["test"].documents, subject.max_length)
        longest = np.argsort(-windows.lengths, kind="stable")[: self.windows].tolist()
        moved = torch.zeros(subject.max_length)  # (T,): largest change of the logits at each position
        for index in longest:
            ids = windows.__getitems__([index])["inputs"][0]
            moved[: len(ids)] = torch.maximum(moved[: len(ids)], self._moved(subject, ids))
        moved = moved[: int(windows.lengths[longest].max()) - 1]  # no token follows the last position
        where = "" if len(moved) <= self.places else f", tried at {self.places} of {len(moved)} places"
        if not len(moved):
            return finding("none", "Causality was not checked: no test window has two tokens.", self.tolerance)
        leaking = torch.nonzero(~(moved <= self.tolerance)).flatten().tolist()  # NaN counts as a leak
        largest = float(moved.max())
        if leaking:
            why = "each word can look at the words after it: the causal mask is missing"
            if len(leaking) < len(moved):
                why = "some words can look at the words after them: the causal mask has a hole"
            sentence = (
                f"The network sees the future, for {why}. At {len(leaking)} of {len(moved)} places (the first is "
                f"{leaking[0]}) its logits moved, by up to {largest:.2g}, when only later tokens were changed "
                f"({self.tolerance:g} is allowed)."
            )
        else:
            sentence = (
                f"The network sees only the past: changing later tokens moved no logit by more than {largest:.2g} "
                f"({self.tolerance:g} is allowed{where})."
            )
        verdict: Verdict = "fault" if leaking else "fine"
        return finding(verdict, sentence, self.tolerance, largest_change=largest, places=leaking)

    def _moved(self, subject: Subject, ids: Tensor) -> Tensor:
        """Return the largest change of the logits at each position, (T,), over all changes after it."""
        length = len(ids)
        ordinary = subject.vocab_size - len(SPECIAL_TOKENS)
        generator = torch.Generator().manual_seed(self.seed)
        offset = torch.randint(1, ordinary, ids.shape, generator=generator)
        other = len(SPECIAL_TOKENS) + (ids - len(SPECIAL_TOKENS) + offset) % ordinary  # differs at every ordinary token
        rows = max(1, LOGITS_AT_ONCE // (length * subject.vocab_size))
        place = torch.arange(length)
        # The same shape in each call, since kernels can round differently for other shapes.
        reference = subject.logits(ids.expand(rows, length)).cpu()
        moved = torch.zeros(length)
        tried = torch.linspace(1, length - 1, min(length - 1, self.places)).round().long()
        for cuts in tried.split(rows):
            # The first changed position of each row; surplus rows change nothing.
            cuts = torch.cat([cuts, cuts.new_full((rows - len(cuts),), length)])[:, None]
            changed = subject.logits(torch.where(place >= cuts, other, ids)).cpu()
            distance = (changed - reference).abs().amax(dim=-1).where(place < cuts, 0.0)  # (rows, T)
            moved = torch.maximum(moved, distance.amax(dim=0))
        real = reference[0][reference[0] > MASKED]
        return moved / max(1.0, float(real.abs().max()) / USUAL_LOGIT) if len(real) else moved
