"""Whether the figures depend on where windows are cut."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minillm.errors import SettingError
from minillm.evaluation.audit.chance import evenly, t_quantile
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

LOGITS_AT_ONCE = 2**24  # 64 MiB: bounds the memory
MIN_ARTICLES = 10  # for an estimate of the variance


@dataclass(frozen=True)
class Position:
    """Cuts test articles into windows at other positions: the loss of the same tokens must not increase.

    A network that has memorized the windows, by their first words or by positions, predicts only those.

    In each article of two windows, the tokens of the second are predicted twice: in that window, and in windows that
    start half a window earlier. Half of the tokens then have more context, half have less, so for a sound network the
    two losses differ only by chance. No window contains the beginning of an article, which is special. Each article
    gives one difference; their mean is tested by a one-sided t-test (Student, "The Probable Error of a Mean", 1908).

    Args:
        share: allowed increase of the loss beyond chance, relative to the loss, since articles are not homogeneous.
        alarm: probability of a false alarm for a sound network whose windows differ by that share.
        articles: test articles to use, evenly spaced, which bounds the time.

    Raises:
        SettingError: a value outside its range.
    """

    share: float = 0.02
    alarm: float = 0.001
    articles: int = 128

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise SettingError("share", self.share, "must be at least 0, such as 0.02")
        if not 0 < self.alarm < 0.5:
            raise SettingError("alarm", self.alarm, "must be over 0 and under 0.5, such as 0.001")
        if self.articles < MIN_ARTICLES:
            raise SettingError("articles", self.articles, f"must be at least {MIN_ARTICLES}")

    def __call__(self, subject: Subject) -> Finding:
        """Check whether windows that are cut elsewhere give the same loss."""
        documents, length = subject.samples["test"].documents, subject.max_length
        long_enough = np.flatnonzero(np.asarray(documents.lengths) > 2 * length)
        if len(long_enough) < MIN_ARTICLES or length < 4:
            sentence = (
                f"Whether figures depend on where windows are cut was not checked: {len(long_enough)} test articles "
                f"have two windows of {length} tokens, {MIN_ARTICLES} are needed."
            )
            return finding("none", sentence, self.share)
        chosen = long_enough[evenly(len(long_enough), self.articles)]
        tokens = np.stack([documents[index][: 2 * length + 1] for index in chosen.tolist()]).astype(np.int64)
        at_once = max(1, LOGITS_AT_ONCE // (length * subject.vocab_size))
        nats = [self._nats(subject, rows) for rows in torch.from_numpy(tokens).split(at_once)]
        usual, moved = (np.concatenate(each) for each in zip(*nats, strict=True))
        differences = moved - usual  # (N,) nats per token
        worse, loss = float(differences.mean()), float(usual.mean())
        error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
        allowed = self.share * loss + t_quantile(1 - self.alarm, len(differences) - 1) * error
        verdict: Verdict
        shown = f"{loss:.2f} nats per token in the windows of the evaluation, and {loss + worse:.2f} in windows"
        if worse <= allowed:
            verdict = "fine"
            sentence = (
                f"Where windows are cut does not matter: the same tokens of {len(chosen)} test articles take {shown} "
                f"that start elsewhere (up to {loss + allowed:.2f} is chance)."
            )
        else:
            verdict = "fault"
            sentence = (
                f"The network knows the windows and not the language: the same tokens of {len(chosen)} test articles "
                f"take {shown} that start half a window earlier (up to {loss + allowed:.2f} is chance)."
            )
        return finding(verdict, sentence, allowed, usual=loss, elsewhere=loss + worse, articles=len(chosen))

    def _nats(self, subject: Subject, tokens: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean nats of the second window's targets, (B,): as usual, and in windows that start earlier.

        Args:
            subject: has the network.
            tokens: (B, 2 T + 1).
        """
        length = subject.max_length
        half = length // 2

        def nats(start: int, stop: int, first: int) -> Tensor:
            """Return the nats of the targets after the inputs from ``first`` to ``stop``, summed, (B,)."""
            logits = subject.logits(tokens[:, start:stop])[:, first - start :]
            targets = tokens[:, first + 1 : stop + 1].to(logits.device)
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
            return each.sum(dim=1).cpu().double()

        usual = nats(length, 2 * length, length)
        moved = nats(length - half, 2 * length - half, length) + nats(2 * length - half, 2 * length, 2 * length - half)
        return (usual / length).numpy(), (moved / length).numpy()
