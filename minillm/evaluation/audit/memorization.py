"""Whether the network has memorized its training text."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.data.batching import EncodedDocuments, Windows
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

ROWS = 32  # passages per batch


@dataclass(frozen=True)
class Memorization:
    """Continues passages greedily, and compares the continuations with the text (Carlini et al. 2023).

    Args:
        difference: allowed difference between training and test passages in the number of tokens that match from the
            start of the continuation. Without memorization one or two tokens match in either; the mean over 64 passages
            has an error of about 0.3. With memorization most of the 32 match.
        passages: passages of each split, evenly spaced.
        prompt: tokens of the prompt.
        continuation: tokens of the continuation.

    Raises:
        SettingError: a value outside its range.
    """

    difference: float = 3.0
    passages: int = 64
    prompt: int = 32
    continuation: int = 32

    def __post_init__(self) -> None:
        for name in ("difference", "passages", "prompt", "continuation"):
            if not getattr(self, name) > 0:
                raise SettingError(name, getattr(self, name), "must be over 0")

    def __call__(self, subject: Subject) -> Finding:
        """Check how many tokens of training and test passages are continued exactly."""
        if "train" not in subject.splits:
            sentence = "Memorization was not checked: the training text is not available."
            return finding("none", sentence, self.difference)
        exact: dict[str, float] = {}
        prefix: dict[str, float] = {}
        for name in ("train", "test"):
            passages = self._passages(subject.samples[name].documents, subject.max_length)
            if not len(passages):
                sentence = (
                    f"Memorization was not checked: no {name} article has {self.prompt + self.continuation} tokens."
                )
                return finding("none", sentence, self.difference)
            matching = torch.cat([self._matching(subject, rows) for rows in passages.split(ROWS)])
            exact[name] = float((matching == self.continuation).double().mean())
            prefix[name] = float(matching.double().mean())
        gap = prefix["train"] - prefix["test"]
        sentence = (
            f"From {self.prompt} tokens the network continues exactly for {prefix['train']:.1f} of {self.continuation} "
            f"tokens in training passages and {prefix['test']:.1f} in test passages ({self.difference:g} more are "
            f"allowed), and to the end in {exact['train']:.0%} and {exact['test']:.0%}."
        )
        if gap > self.difference:
            sentence = "The network has memorized training text: f" + sentence[1:]
        verdict: Verdict = "fault" if gap > self.difference else "fine"
        return finding(verdict, sentence, self.difference, exact=exact, prefix=prefix)

    def _passages(self, documents: EncodedDocuments, max_length: int) -> Tensor:
        """Return tokens (N, prompt + continuation), from the start of windows, as in training."""
        length = self.prompt + self.continuation
        windows = Windows(documents, max(max_length, length))
        long_enough = np.flatnonzero(windows.lengths >= length)
        if not len(long_enough):
            return torch.zeros(0, length, dtype=torch.long)
        chosen = np.unique(np.linspace(0, len(long_enough) - 1, self.passages).astype(int))
        return torch.cat([windows.__getitems__([int(long_enough[i])])["inputs"][:, :length] for i in chosen])

    def _matching(self, subject: Subject, passages: Tensor) -> Tensor:
        """Return how many tokens of the greedy continuation match from its start, (N,)."""
        lengths = torch.zeros(len(passages), dtype=torch.long)
        going = torch.arange(len(passages))
        for place in range(self.prompt, passages.size(1)):
            # While a row matches, its generated tokens are those of the passage.
            seen = passages[going, max(0, place - subject.max_length) : place]
            guess = subject.logits(seen)[:, -1].argmax(dim=-1).cpu()
            going = going[guess == passages[going, place]]
            if not len(going):
                break
            lengths[going] += 1
        return lengths
