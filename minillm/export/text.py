"""The run's test split, for formats that measure on it."""

import re
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from minillm.data.batching import EncodedDocuments
from minillm.data.subset import Subset, smallest_hashes
from minillm.errors import SettingError
from minillm.evaluation.text import NAME_IT
from minillm.export.exporting import TrainedRun


class HeldOut(NamedTuple):
    """Articles of a model's test split.

    Args:
        documents: their tokens.
        articles: the articles, with the columns of `minillm.corpus.Article`.
        whole: whether these are all of the split.
    """

    documents: EncodedDocuments
    articles: Dataset
    whole: bool

    def __str__(self) -> str:
        share = "all of" if self.whole else "those with the smallest hashes of"
        number = len(self.articles)
        return f"{number:,} article{'s' * (number != 1)}, {share} the run's test split"


def held_out(run: TrainedRun, purpose: str, max_tokens: int | None) -> HeldOut:
    """Return the articles of a model's test split; of a large one those with the smallest hashes.

    Args:
        run: the model.
        purpose: the setting that needs them, such as ``format=harness``.
        max_tokens: most tokens; None: the whole split.

    Raises:
        SettingError: the split is not there, or empty.
    """
    setting, _, value = purpose.partition("=")
    if max_tokens is not None and max_tokens < 1:
        raise SettingError("format.max_tokens", max_tokens, "must be at least 1, or null for the whole test split")
    try:
        data = run.data()
    except SettingError as error:
        reason = re.sub(rf";? (?:or )?{re.escape(NAME_IT)}$", "", str(error))
        raise SettingError(setting, value, f"needs the run's test split, which is not at hand: {reason}") from error
    documents, articles = data.splits["test"], data.corpus.articles("test")
    if not len(documents):
        raise SettingError(setting, value, "needs the run's test split, which has no article")
    chosen = smallest_hashes(documents, max_tokens)
    if chosen is None:
        return HeldOut(documents, articles, whole=True)
    return HeldOut(Subset(documents, np.sort(chosen)), articles.select(chosen.tolist()), whole=False)
