"""Whether the network predicts the next token."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from torch import nn

from minillm.data import Batch
from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject
from minillm.tokenization import PAD, UNK


@dataclass(frozen=True)
class Alignment:
    """Targets must be the inputs shifted by one; and the network must not have learned to repeat its input.

    Args:
        copying: share of test positions at which the most probable token may be the last input ([UNK] excluded). Text
            rarely repeats a word at once, so a network trained on shifted targets stays under 0.1; one trained on
            unshifted targets is near 1.
        sure: mean confidence above which the network has learned to repeat. An untrained network with a tied head
            repeats its input, too, but with a confidence of 0.1 or less; one trained on unshifted targets reaches 0.5
            after an epoch, and later 1.
        batches: batches of each loader to check.

    Raises:
        SettingError: a value outside its range.
    """

    copying: float = 0.5
    sure: float = 0.25
    batches: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.copying <= 1:
            raise SettingError("copying", self.copying, "must be over 0 and at most 1, such as 0.5")
        if not 0 <= self.sure <= 1:
            raise SettingError("sure", self.sure, "must be from 0 to 1, such as 0.25")
        if self.batches < 1:
            raise SettingError("batches", self.batches, "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Check the targets of the batches, and whether the network repeats its input."""
        counted = {name: _misaligned(islice(loader, self.batches)) for name, loader in subject.loaders.items()}
        wrong = {name: wrong / places for name, (wrong, places) in counted.items() if places}
        places = sum(places for _, places in counted.values())
        counts = subject.counts
        copied = float(counts["copied"] / max(1, counts["copyable"]))
        confidence = float(counts["bin_confidence"].sum() / counts["bin_tokens"].sum())
        untrained = _as_initialized(subject.network)
        worst = max(wrong, key=lambda name: wrong[name], default=None)
        if worst and wrong[worst]:
            sentence = (
                f"The targets are not the inputs shifted by one: {wrong[worst]:.1%} of the {worst} targets are other "
                "tokens."
            )
        elif copied > self.copying and (untrained or confidence < self.sure):
            sentence = (
                f"The network repeats its input, at {copied:.1%} of the test positions, because it is "
                f"{'un' if untrained else 'hardly '}trained, not because the targets are not shifted: where the output "
                f"layer is the embedding, each word is most similar to itself (mean confidence {confidence:.1%})."
            )
        elif copied > self.copying:
            sentence = (
                f"The network repeats its input: at {copied:.1%} of the test positions it predicts the token that it "
                f"was just given (at most {self.copying:.0%} is plausible), as it learns when the targets are not "
                "shifted."
            )
        else:
            looked = f"in all {places:,} checked positions the target is the next input, and " if places else ""
            repeats = f"the network repeats its input at {copied:.1%} of the test positions"
            sentence = f"The next token is predicted: {looked}{repeats}."
        verdict: Verdict = "fault" if any(wrong.values()) or copied > self.copying else "fine"
        if not any(wrong.values()) and copied > self.copying and (untrained or confidence < self.sure):
            verdict = "none"  # plausibility judges an untrained network
        figures = {"misaligned": wrong, "copied": copied, "confidence": confidence, "places": places}
        return finding(verdict, sentence, self.copying, **figures)


def _as_initialized(network: nn.Module) -> bool:
    """Return whether all biases and normalization gains have their initial values, all zeros or all ones.

    A training step changes each number differently. False if the network has no such parameters.
    """
    vectors = [parameter for parameter in network.parameters() if parameter.dim() == 1 and len(parameter) > 1]
    return bool(vectors) and all(bool((vector == vector[0]).all()) for vector in vectors)


def _misaligned(batches: Iterable[Batch]) -> tuple[int, int]:
    """Return the number of targets that differ from the next input, and the number of targets checked."""
    wrong = places = 0
    for batch in batches:
        target, following = batch["targets"][:, :-1], batch["inputs"][:, 1:]
        checked = (target != PAD) & (following != PAD)
        checked &= (following != UNK) | (target == UNK)  # in training, word dropout replaces inputs by [UNK]
        if "documents" in batch:  # packed: the next input may start another document
            checked &= batch["documents"][:, :-1] == batch["documents"][:, 1:]
        wrong += int((target != following)[checked].sum())
        places += int(checked.sum())
    return wrong, places
