"""The texts of an audit: from files or from memory, however many; what figures are over is a bounded part of them."""

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
"""A file, folder or glob, as `minillm.corpus.FilesSource` takes them; or the texts themselves."""

# Of text that is encoded, per token that figures are over at most: a token of more is rare, so that the limit on tokens
# decides, and not this one.
BYTES_PER_TOKEN = 8
# A token of so many bytes on average is that of no vocabulary: the files of a tokenizer are missing.
SPARSE = 100


@dataclass(frozen=True)
class TextFiles:
    """The texts in files, read anew each time that they are gone through.

    Args:
        setting: what named them, for errors.
        path: file, folder or glob.
        text_field: field of a .jsonl or .parquet record that holds the text.
        on_error: what becomes of a record that cannot be used: "refuse" or "skip".
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
    """All texts of a split, of which the figures are over a part.

    Args:
        texts: gone through once by each check that asks for all.
        articles: how many there are.
        bytes: their UTF-8 bytes.
    """

    texts: TextFiles | Sequence[str]
    articles: int
    bytes: int

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def split_of(texts: TextFiles | Sequence[str], setting: str, model: LanguageModel, max_tokens: int | None) -> Split:
    """Return texts as a split, encoded; of many the ones with the smallest hashes alone, as `smallest_hashes` has it.

    The texts pass by once: memory does not grow with them.

    Args:
        texts: the texts.
        setting: what named them, for errors.
        model: has the tokenizer.
        max_tokens: tokens of them that figures are over at most; None: all.

    Raises:
        SettingError: there is no text, or next to no token comes of it.
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
        raise SettingError(setting, shown, "holds no text")
    documents = EncodedTexts(chosen, model.tokenizer)
    tokens = int(documents.lengths.sum()) - (1 + model.tokenizer.ends) * len(documents)
    if tokens * SPARSE < kept:
        advice = (
            f"the model's tokenizer makes {tokens:,} tokens of {kept:,} bytes: it is none of such text, or is not whole"
        )
        raise SettingError(setting, shown, advice)
    return Split(documents, chosen, Corpus(texts, articles, size) if articles > len(chosen) else None)
