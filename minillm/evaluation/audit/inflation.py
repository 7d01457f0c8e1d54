"""Are the reported figures those of the text, and not of padding or unknown words?"""

import math
from dataclasses import dataclass

from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.language_modelling import Measured
from minillm.evaluation.subject import Subject
from minillm.tokenization import UNK


@dataclass(frozen=True)
class Inflation:
    """Compares reported accuracy and perplexity with those over the true targets alone; names what inflates them.

    Padding is told as it would be if each window were padded to ``max_length``, and predicted with certainty, as a
    network learns to that is trained on it.

    Args:
        tolerance: how far a reported accuracy, or a reported loss in nats, may be from the recomputed one. Both are
            float32 over the same tokens, and differ by rounding (1e-5); other tokens differ by more than 0.005.

    Raises:
        SettingError: tolerance not over 0.
    """

    tolerance: float = 0.005

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise SettingError("tolerance", self.tolerance, "must be over 0, such as 0.005")

    def __call__(self, subject: Subject) -> Finding:
        """Return the figures with padding and without [UNK], and which reported ones are not right."""
        test = subject.measured["test"]
        padded = padding_counted(test)
        targets, correct = subject.counts["targets"], subject.counts["correct"]
        unknown = int(targets[UNK])
        known = test.figures["tokens"] - unknown
        without = float((correct.sum() - correct[UNK]) / known) if known else None
        accuracy = test.figures["accuracy"]
        told = (
            f"{padded['share']:.0%} of the places of windows of {subject.max_length} tokens are padding: counting them "
            f"would have shown test accuracy {padded['accuracy']:.2f} instead of {accuracy:.2f}, and perplexity "
            f"{padded['perplexity']:,.1f} instead of {test.figures['perplexity']:,.1f}"
        )
        if unknown and without is not None:
            share = unknown / test.figures["tokens"]
            told += f"; {share:.0%} of the targets are [UNK]: without them it is {without:.2f}"
        wrong = self._wrong(subject)
        return finding(
            "fault" if wrong else "fine",
            f"{'; '.join(wrong)}. {told}." if wrong else f"{told}.",
            self.tolerance,
            padding=padded["share"],
            accuracy=accuracy,
            accuracy_with_padding=padded["accuracy"],
            perplexity=test.figures["perplexity"],
            perplexity_with_padding=padded["perplexity"],
            accuracy_without_unknown=without,
        )

    def _wrong(self, subject: Subject) -> list[str]:
        """Return a clause for each reported figure that is not that of the true targets."""
        wrong = []
        for name, measured in subject.measured.items():
            padded = padding_counted(measured)
            for figure in ("accuracy", "perplexity"):
                reported = subject.reported.get(f"{name}/{figure}")
                if reported is None:
                    continue
                true = measured.figures["accuracy" if figure == "accuracy" else "perplexity"]
                if self._near(figure, reported, true):
                    continue
                cause = ", but what counting padding gives" if self._near(figure, reported, padded[figure]) else ""
                wrong.append(f"The reported {name} {figure} {reported:.4g} is not that of the text, {true:.4g}{cause}")
        return wrong

    def _near(self, figure: str, one: float, other: float) -> bool:
        if figure == "accuracy":
            return abs(one - other) <= self.tolerance
        return one > 0 and abs(math.log(one) - math.log(other)) <= self.tolerance


def padding_counted(measured: Measured) -> dict[str, float]:
    """Return accuracy and perplexity with padding counted as predicted, and the share of padding."""
    places = measured.figures["tokens"] + measured.padding
    figures, targets = measured.figures, measured.figures["tokens"]
    return {
        "share": measured.padding / places,
        "accuracy": (figures["accuracy"] * targets + measured.padding) / places,
        "perplexity": math.exp(figures["loss"] * targets / places),
    }
