"""Is the next token what is predicted?"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from minillm.data import Batch
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject
from minillm.tokenization import PAD, UNK

SURE = 0.1
"""Mean probability of the guesses from which on they were learned. An untrained network whose embeddings are its output
layer too repeats its input by how it is made, with a probability near 1 / V."""


@dataclass(frozen=True)
class Alignment:
    """Targets must be the inputs one place later; and a network must not have learned to repeat its input.

    Args:
        copying: share of the test places at which the network may guess the token that it was just given ([UNK] left
            out). Text hardly ever repeats a word at once, so a network that learned from shifted targets stays under
            0.1, and one that learned from unshifted ones is near 1.
        batches: batches of each loader to look at.

    Raises:
        SettingError: a value outside its range.
    """

    copying: float = 0.5
    batches: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.copying <= 1:
            raise SettingError("copying", self.copying, "must be over 0 and at most 1, such as 0.5")
        if self.batches < 1:
            raise SettingError("batches", self.batches, "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Return whether batches and network predict the next token."""
        counted = {name: _misaligned(islice(loader, self.batches)) for name, loader in subject.loaders.items()}
        wrong = {name: wrong / places for name, (wrong, places) in counted.items() if places}
        places = sum(places for _, places in counted.values())
        counts = subject.counts
        copied = float(counts["copied"] / max(1, counts["copyable"]))
        sure = float(counts["bin_confidence"].sum() / max(1, counts["bin_tokens"].sum()))
        repeats = copied > self.copying and sure > SURE
        worst = max(wrong, key=lambda name: wrong[name], default=None)
        if worst and wrong[worst]:
            sentence = (
                f"The targets are not the inputs one place later: {wrong[worst]:.1%} of the targets that {worst} is "
                "computed on are other tokens."
            )
        elif repeats:
            sentence = (
                f"The network repeats its input: at {copied:.1%} of the test places it guesses the token that it was "
                f"just given (at most {self.copying:.0%} is plausible), as it learns when the targets are not shifted."
            )
        else:
            looked = f"in all {places:,} places looked at the target is the next input and " if places else ""
            often = f"the network repeats its input at {copied:.1%} of the test places"
            often += ", and is sure of nothing" if copied > self.copying else ""
            sentence = f"The next token is predicted: {looked}{often}."
        faulty = any(wrong.values()) or repeats
        verdict: Verdict = "fault" if faulty else "fine"
        return finding(verdict, sentence, self.copying, misaligned=wrong, copied=copied, places=places)


def _misaligned(batches: Iterable[Batch]) -> tuple[int, int]:
    """Return how many targets are not the next input, of how many that can be told."""
    wrong = places = 0
    for batch in batches:
        target, following = batch["targets"][:, :-1], batch["inputs"][:, 1:]
        told = (target != PAD) & (following != PAD)
        told &= (following != UNK) | (target == UNK)  # word dropout hides inputs, of training batches alone
        if "documents" in batch:  # packed: the next input may open another document
            told &= batch["documents"][:, :-1] == batch["documents"][:, 1:]
        wrong += int((target != following)[told].sum())
        places += int(told.sum())
    return wrong, places
