"""The texts of an audit, from files or from memory; figures use a bounded part of them."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from minillm.corpus import FilesSource
from minillm.corpus.split import uniform
from minillm.errors import SettingError
from minillm.evaluation.subject import Split
from minillm.language_model import EncodedTexts, LanguageModel, identity

Given = str | Path | Sequence[str]
"""A file, folder or glob, as for `minillm.corpus.FilesSource`; or the texts themselves."""

# Bytes of text to encode, per token that figures use at most. Few tokens are longer, so the limit on tokens applies.
BYTES_PER_TOKEN = 8
# No vocabulary has this many bytes per token on average: the tokenizer's files are incomplete.
MAX_BYTES_PER_TOKEN = 100


@dataclass(frozen=True)
class TextFiles:
    """The texts in files, read again at each iteration.

    Args:
        setting: the setting with the path, for errors.
        path: file, folder or glob.
        text_field: field of a .jsonl or .parquet record with the text.
        on_error: what to do with an unusable record: "refuse" or "skip".
    """

    setting: str
    path: str
    text_field: str = "text"
    on_error: str = "refuse"

    def __iter__(self) -> Iterator[str]:
        try:
            source = FilesSource(self.path, self.on_error, self.text_field)
            for article in source.articles(None, ()):
                yield article.text
        except SettingError as error:
            name = self.setting if error.setting.endswith("path") else error.setting
            raise SettingError(name, error.value, error.advice.replace("data.source.", "")) from error


@dataclass(frozen=True)
class Corpus:
    """All texts of a split, of which figures use a part.

    Args:
        texts: iterated over once by each check that needs all.
        articles: number of texts.
        bytes: UTF-8 bytes of the texts.
    """

    texts: TextFiles | Sequence[str]
    articles: int
    bytes: int

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def split_of(texts: TextFiles | Sequence[str], setting: str, model: LanguageModel, max_tokens: int | None) -> Split:
    """Return texts as an encoded split; if there are many, those with the smallest hashes, as in `smallest_hashes`.

    The texts are read once, and memory does not grow with their number.

    Args:
        texts: the texts.
        setting: the setting with the texts, for errors.
        model: has the tokenizer.
        max_tokens: maximum tokens that figures use; None: all.

    Raises:
        SettingError: there is no text, or it gives almost no tokens.
    """
    most = None if max_tokens is None else max_tokens * BYTES_PER_TOKEN
    heap: list[tuple[float, int, int, str]] = []  # the greatest hash first
    articles = size = kept = 0
    number = count()
    for text in texts:
        length = len(text.encode("utf-8", "surrogatepass"))
        articles, size, kept = articles + 1, size + length, kept + length
        heapq.heappush(heap, (-uniform("evaluation", identity(text)), next(number), length, text))
        while most is not None and kept > most and len(heap) > 1:
            kept -= heapq.heappop(heap)[2]
    chosen = [text for *_, text in sorted(heap, key=lambda entry: entry[1])]
    shown = texts.path if isinstance(texts, TextFiles) else texts
    if not chosen:
        raise SettingError(setting, shown, "has no text")
    documents = EncodedTexts(chosen, model.tokenizer)
    tokens = int(documents.lengths.sum()) - (1 + model.tokenizer.ends) * len(documents)
    if tokens * MAX_BYTES_PER_TOKEN < kept:
        advice = f"the model's tokenizer makes {tokens:,} tokens of {kept:,} bytes: it is for other text, or incomplete"
        raise SettingError(setting, shown, advice)
    return Split(documents, chosen, Corpus(texts, articles, size) if articles > len(chosen) else None)
