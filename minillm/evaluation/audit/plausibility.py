"""Whether the test perplexity is possible."""

import math
from dataclasses import dataclass

from minillm.errors import SettingError
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject
from minillm.tokenization import UNK

BYTES_PER_TOKEN = 4.4
"""Of English text with GPT-2's vocabulary, on which the law below is based."""

MAX_PARAMETERS = 10**12
"""Assumed for a network whose number of parameters is unknown, such as a function: few models have more."""


@dataclass(frozen=True)
class Plausibility:
    """A test perplexity lower than a network of this size can reach is a fault; one above a bigram model's is weak.

    With unlimited data, N parameters reach (8.8e13 / N)^0.076 nats per token (Kaplan et al., "Scaling Laws for Neural
    Language Models", 2020, equation 1.1). This is converted to bits per byte, over the bytes outside [UNK], so that it
    applies to any vocabulary.

    Args:
        margin: factor of that bound below which the perplexity is not believed: 0.5, since the law is for English web
            text, and encyclopedic Spanish is more regular. With four million parameters, the law gives 1.18 bits per
            byte, and the threshold is 0.59; a network that sees its targets is under 0.3.
        behind: factor of the bigram model's perplexity above which the network is weak; 1: it must be better than the
            bigram model. A sound network is within a factor of 1.25 after a few epochs; one that learns nothing stays
            near the unigram model, at a factor of 2 and more. Its figures are correct all the same.

    Raises:
        SettingError: margin outside (0, 1], or behind under 1.
    """

    margin: float = 0.5
    behind: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise SettingError("margin", self.margin, "must be over 0 and at most 1, such as 0.5")
        if not self.behind >= 1:
            raise SettingError("behind", self.behind, "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether the test perplexity is between the bound and the bigram model's."""
        figures, documents = subject.measured["test"].figures, subject.samples["test"].documents
        perplexity = figures["perplexity"]
        # unknown_bytes includes 1 for each [UNK].
        spelled = int(documents.bytes.sum() - documents.unknown_bytes.sum() + subject.counts["targets"][UNK])
        parameters = subject.parameters or MAX_PARAMETERS
        law = (8.8e13 / parameters) ** 0.076 / math.log(2) / BYTES_PER_TOKEN  # bits per byte
        floor = math.exp(min(700.0, self.margin * law * math.log(2) * spelled / figures["tokens"]))  # as a perplexity
        bigram = subject.baselines.get("test", {}).get("bigram", {}).get("perplexity")
        size = f"{parameters / 1e6:,.2g} million parameters" if subject.parameters else "a network of unknown size"
        verdict: Verdict = "fine"
        if not perplexity >= floor:
            verdict = "fault"
            sentence = (
                f"Test perplexity {perplexity:.2f} is impossible: on unseen text the minimum for {size} is {floor:.1f}."
            )
        elif bigram is not None and perplexity > self.behind * bigram:
            verdict = "weak"
            sentence = (
                f"Test perplexity {perplexity:,.1f} is worse than that of a bigram model, {bigram:,.1f}: the network "
                "learned less than a bigram model. The figures are correct, and weak."
            )
        else:
            beside = ""
            if bigram is not None:
                where = "better than" if perplexity <= bigram else f"less than {self.behind - 1:.0%} worse than"
                beside = f"{where} a bigram model ({bigram:,.1f}) and "
            sentence = (
                f"Test perplexity {perplexity:,.1f} is plausible: {beside}at least {floor:.1f}, the minimum for {size}."
            )
        return finding(verdict, sentence, floor, perplexity=perplexity, bigram_perplexity=bigram)
