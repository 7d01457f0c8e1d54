"""Does the network see what it is to predict?"""

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
NEVER = -1e29  # logits under it stand for tokens that a network does not know, or masks out


@dataclass(frozen=True)
class Causality:
    """Changes all tokens behind a place, for every place of a window: no logit up to it may move.

    Every place is tried because a mask may leak at a single one. That takes a pass for each place: of windows of more
    than ``places`` tokens so many are tried, evenly over them, and the finding says so.

    Args:
        tolerance: how far a logit may move, in float32. A causal network computes the same numbers in the same order,
            so they move by 0, or by rounding (about 1e-6 at logits around 10, and ten times as much at logits around
            100, for which the tolerance grows alike); a leak that helps to predict moves them by 1e-2 and more.
        windows: windows of text to try it on, the longest of the test split.
        places: places of a window to try: bounds the time of long ones.
        seed: of the tokens put in place.

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
        """Return whether logits stay when later tokens change, and where they do not."""
        windows = Windows(subject.samples["test"].documents, subject.max_length)
        longest = np.argsort(-windows.lengths, kind="stable")[: self.windows].tolist()
        moved = torch.zeros(subject.max_length)  # (T,): how far the logits at each place moved at most
        for index in longest:
            ids = windows.__getitems__([index])["inputs"][0]
            moved[: len(ids)] = torch.maximum(moved[: len(ids)], self._moved(subject, ids))
        moved = moved[: int(windows.lengths[longest].max()) - 1]  # nothing stands behind the last place
        where = "" if len(moved) <= self.places else f", tried at {self.places} of {len(moved)} places"
        if not len(moved):
            return finding("none", "Causality was not checked: no test window has two tokens.", self.tolerance)
        leaking = torch.nonzero(~(moved <= self.tolerance)).flatten().tolist()  # not a number leaks too
        largest = float(moved.max())
        if leaking:
            sentence = (
                f"The network sees the future: at {len(leaking)} of {len(moved)} places (the first is {leaking[0]}) "
                f"its logits moved, by up to {largest:.2g}, when only later tokens were changed ({self.tolerance:g} is "
                "allowed)."
            )
        else:
            sentence = (
                f"The network sees only the past: changing later tokens moved no logit by more than {largest:.2g} "
                f"({self.tolerance:g} is allowed{where})."
            )
        verdict: Verdict = "fault" if leaking else "fine"
        return finding(verdict, sentence, self.tolerance, largest_change=largest, places=leaking)

    def _moved(self, subject: Subject, ids: Tensor) -> Tensor:
        """Return (T,) how far the logits at each place moved at most, over all changes behind it."""
        length = len(ids)
        ordinary = subject.vocab_size - len(SPECIAL_TOKENS)
        generator = torch.Generator().manual_seed(self.seed)
        offset = torch.randint(1, ordinary, ids.shape, generator=generator)
        other = len(SPECIAL_TOKENS) + (ids - len(SPECIAL_TOKENS) + offset) % ordinary  # differs at every ordinary token
        rows = max(1, LOGITS_AT_ONCE // (length * subject.vocab_size))
        place = torch.arange(length)
        # The same shape in each call: kernels may round otherwise for other shapes.
        reference = subject.logits(ids.expand(rows, length)).cpu()
        moved = torch.zeros(length)
        tried = torch.linspace(1, length - 1, min(length - 1, self.places)).round().long()
        for cuts in tried.split(rows):
            # The first changed place of each row; rows that are left over change nothing.
            cuts = torch.cat([cuts, cuts.new_full((rows - len(cuts),), length)])[:, None]
            changed = subject.logits(torch.where(place >= cuts, other, ids)).cpu()
            distance = (changed - reference).abs().amax(dim=-1).where(place < cuts, 0.0)  # (rows, T)
            moved = torch.maximum(moved, distance.amax(dim=0))
        real = reference[0][reference[0] > NEVER]
        return moved / max(1.0, float(real.abs().max()) / USUAL_LOGIT) if len(real) else moved
