"""Does the network know its training text by heart?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.data.batching import EncodedDocuments, Windows
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

ROWS = 32  # passages continued at once


@dataclass(frozen=True)
class Memorization:
    """Continues passages greedily, and compares with how they go on (Carlini et al. 2023).

    Args:
        difference: how much longer, in tokens, the word-for-word start of the continuation may be on training passages
            than on test passages. A network without the text by heart hits the first token or two of either; the mean
            over 64 passages is known to about 0.3. One that memorized goes on for most of the 32.
        passages: passages of each split, evenly over it.
        prompt: tokens given.
        continuation: tokens to continue.

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
        """Return how far training and test passages are continued word for word."""
        if "train" not in subject.splits:
            sentence = "Memorization was not checked: the text that the network learned from is not at hand."
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
            f"From {self.prompt} tokens the network goes on word for word for {prefix['train']:.1f} tokens of "
            f"{self.continuation} in training passages and {prefix['test']:.1f} in test passages ({self.difference:g} "
            f"more are allowed), and to the end in {exact['train']:.0%} and {exact['test']:.0%}."
        )
        if gap > self.difference:
            sentence = "The network has training text by heart: f" + sentence[1:]
        verdict: Verdict = "fault" if gap > self.difference else "fine"
        return finding(verdict, sentence, self.difference, exact=exact, prefix=prefix)

    def _passages(self, documents: EncodedDocuments, max_length: int) -> Tensor:
        """Return (N, prompt + continuation) tokens, each from the start of a window, as in training."""
        length = self.prompt + self.continuation
        windows = Windows(documents, max(max_length, length))
        long_enough = np.flatnonzero(windows.lengths >= length)
        if not len(long_enough):
            return torch.zeros(0, length, dtype=torch.long)
        chosen = np.unique(np.linspace(0, len(long_enough) - 1, self.passages).astype(int))
        return torch.cat([windows.__getitems__([int(long_enough[i])])["inputs"][:, :length] for i in chosen])

    def _matching(self, subject: Subject, passages: Tensor) -> Tensor:
        """Return (N,) how many tokens of the greedy continuation match from its start."""
        lengths = torch.zeros(len(passages), dtype=torch.long)
        going = torch.arange(len(passages))
        for place in range(self.prompt, passages.size(1)):
            # As long as a row matches, what it has generated is the passage itself.
            seen = passages[going, max(0, place - subject.max_length) : place]
            guess = subject.logits(seen)[:, -1].argmax(dim=-1).cpu()
            going = going[guess == passages[going, place]]
            if not len(going):
                break
            lengths[going] += 1
        return lengths
