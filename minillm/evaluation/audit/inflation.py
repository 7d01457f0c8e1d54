"""Whether padding or unknown words inflate the reported figures."""

import math
from dataclasses import dataclass

from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.language_modelling import Measured
from minillm.evaluation.subject import Subject


@dataclass(frozen=True)
class Inflation:
    """Compares reported accuracy and perplexity with those of the true targets, and names what inflates them.

    The figures with padding assume that each window is padded to ``max_length``, and that padding is predicted with
    certainty, as by a network trained on it.

    Args:
        tolerance: allowed difference between a reported and a recomputed accuracy, or loss in nats. Rounding in float32
            gives 1e-5; over other tokens, figures differ by more than 0.005.
        warned: share of [UNK] among the test targets above which the finding warns of its effect on perplexity. With a
            vocabulary of 5,000, 20 % of the sample's words are unknown.
        unknown: share of [UNK] above which it is a fault: almost every third word then counts as the same word. Text in
            another language than the vocabulary's has 70 % and more.

    Raises:
        SettingError: a value outside its range.
    """

    tolerance: float = 0.005
    warned: float = 0.1
    unknown: float = 0.3

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise SettingError("tolerance", self.tolerance, "must be over 0, such as 0.005")
        for name in ("warned", "unknown"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(name, getattr(self, name), "must be a share, from 0 to 1")

    def __call__(self, subject: Subject) -> Finding:
        """Compute the figures with padding and without [UNK], and check the reported figures."""
        test = subject.measured["test"]
        padded = padding_counted(test)
        share, without = test.figures["unk_rate"], test.figures["accuracy_without_unknown"]
        accuracy = test.figures["accuracy"]
        effects = (
            f"{padded['share']:.0%} of the places of windows of {subject.max_length} tokens are padding: counting them "
            f"would have shown test accuracy {padded['accuracy']:.2f} instead of {accuracy:.2f}, and perplexity "
            f"{padded['perplexity']:,.1f} instead of {test.figures['perplexity']:,.1f}"
        )
        warning, hidden = None, ""
        if share > self.warned:
            warning = (
                f"{share:.0%} of the test words are not in the vocabulary: perplexity counts them as one easy word"
            )
            hidden = f"{warning}, [UNK]"
            if without is not None:
                hidden += f", and accuracy is {accuracy:.2f} with them, {without:.2f} without"
            if share > self.unknown:
                hidden += f"; over {self.unknown:.0%}, neither says how well the text is predicted: bits per byte does"
        elif share and without is not None:
            effects += f"; {share:.0%} of the targets are [UNK]: without them it is {without:.2f}"
        wrong = self._wrong(subject)
        clauses = [*wrong, *([hidden] if hidden else []), effects + self._over_train(subject)]
        return finding(
            "fault" if wrong or share > self.unknown else "fine",
            ". ".join(clauses) + ".",
            self.tolerance,
            unknown=share,
            warning=warning and f"{warning}.",
            padding=padded["share"],
            accuracy=accuracy,
            accuracy_with_padding=padded["accuracy"],
            perplexity=test.figures["perplexity"],
            perplexity_with_padding=padded["perplexity"],
            accuracy_without_unknown=without,
        )

    def _over_train(self, subject: Subject) -> str:
        """Return a clause if test accuracy is above train's because of its share of [UNK]."""
        train, test = (
            subject.measured[name].figures if name in subject.measured else None for name in ("train", "test")
        )
        if train is None or test is None or test["accuracy"] <= train["accuracy"] or not test["unk_rate"]:
            return ""
        known, without = (figures["accuracy_without_unknown"] or 0.0 for figures in (train, test))
        if without > known or test["unk_rate"] <= train["unk_rate"]:
            return ""
        return (
            f". Test accuracy is over train's, {test['accuracy']:.3f} and {train['accuracy']:.3f}, for more of its "
            f"words are [UNK], {test['unk_rate']:.0%} and {train['unk_rate']:.0%}: without them it is {without:.3f} "
            f"and {known:.3f}"
        )

    def _wrong(self, subject: Subject) -> list[str]:
        """Return a clause for each reported figure that is wrong."""
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
    """Return accuracy and perplexity with padding counted as predicted, and the share of padding positions."""
    places = measured.figures["tokens"] + measured.padding
    figures, targets = measured.figures, measured.figures["tokens"]
    return {
        "share": measured.padding / places,
        "accuracy": (figures["accuracy"] * targets + measured.padding) / places,
        "perplexity": math.exp(figures["loss"] * targets / places),
    }
