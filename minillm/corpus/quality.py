"""The quality filter for articles, and language identification."""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from minillm.corpus.cleaning import trailing_sections
from minillm.errors import SettingError

VERSION = 1  # increased when the same article is judged differently
REASONS = ("redirect", "disambiguation", "list", "not Spanish", "other language")

REDIRECT = re.compile(r"\s*#\s*redirec(?:t|ci[óo]n)\b", re.IGNORECASE)
DISAMBIGUATION_HINTS = ("pued", "podría")  # one is in the first BEGINNING characters of a match of the next pattern
BEGINNING = 310
DISAMBIGUATION = re.compile(  # "Mercurio puede referirse a:" and a list
    r"[^\n]{0,300}\b(?:pueden?|podría) (?:referirse|hacer referencia|aludir|significar|designar)\b"
    r"[^\n]{0,80}:\s*\n\s*\S",
    re.IGNORECASE,
)
LIST_TITLE = re.compile(r"anexo:|(?:lista|listado) del? ", re.IGNORECASE)
BULLET = re.compile(r"\s*(?:[*#•·▪]|[-–—]\s|\d{1,3}[.)]\s)")
SENTENCE_ENDS = (".", "!", "?", "…", ":", ";", ",", '"', "»")
ITEM_LENGTH = 60  # characters; a shorter line that does not end a sentence is a list item
SLICE = 400  # characters of each of the three slices that language identification uses
MIN_IDENTIFIABLE = 100  # characters; the language of a shorter text cannot be identified
MIN_PROBABILITY = 0.3  # of Spanish: 200 characters of Spanish have 0.47 or more, Asturian about 0.2, Portuguese 0.00
AUTO = "auto"
MAJORITY = 2 / 3  # share of articles in one language from which on it is the corpus's language


@dataclass(frozen=True)
class QualityFilter:
    """Finds articles without prose in the corpus's language.

    Args:
        language: drop articles in other languages: "es" or another of py3langid's 97 codes; "auto": the language of at
            least two thirds of a corpus's articles, see `language_of`; None: keep all.
        redirects: drop redirects.
        disambiguations: drop disambiguation pages.
        lists: drop lists: by title, or because most of the text is in list items.

    Raises:
        SettingError: an unknown language.
    """

    language: str | None = "es"
    redirects: bool = True
    disambiguations: bool = True
    lists: bool = True

    def __post_init__(self) -> None:
        if self.language not in ("es", AUTO, None) and self.language not in _identifier().languages:
            known = " ".join(_identifier().languages)
            advice = f"must be auto (that of most articles), null (every language is kept), or one of {known}"
            raise SettingError("language", self.language, advice)

    @property
    def foreign(self) -> str:
        """The reason for dropping articles in other languages."""
        return "not Spanish" if self.language in ("es", None) else "other language"

    def reason(self, title: str, raw_text: str, clean_text: str) -> str | None:
        """Return why an article is dropped, one of `REASONS`; None: it is kept.

        Args:
            title: the article's title.
            raw_text: its text from the source.
            clean_text: its text after cleaning.

        Raises:
            ValueError: the language is "auto", which needs a corpus.
        """
        if self.language == AUTO:
            raise ValueError("auto is for a corpus: call language_of first")
        if self.redirects and REDIRECT.match(raw_text):
            return "redirect"
        if self.disambiguations and _is_disambiguation(title, raw_text):
            return "disambiguation"
        if self.lists and (LIST_TITLE.match(title) or _is_list(raw_text, clean_text)):
            return "list"
        if self.language and not is_in(self.language, clean_text):
            return self.foreign
        return None


class Language(NamedTuple):
    """The language of most texts.

    Attributes:
        code: py3langid's code.
        share: of the texts that are long enough to identify.
    """

    code: str
    share: float


def language_of(texts: Iterable[str]) -> Language | None:
    """Return the language of most texts; None: no text is long enough to identify."""
    counts = Counter(_identifier().most_likely(_slices(text)) for text in texts if len(text) >= MIN_IDENTIFIABLE)
    if not counts:
        return None
    code, count = counts.most_common(1)[0]
    return Language(code, count / counts.total())


def is_spanish(text: str) -> bool:
    """Return whether a text is Spanish, see `is_in`.

    >>> is_spanish("La ciudad fue fundada en 1535. " * 4), is_spanish("The city was founded in 1535. " * 4)
    (True, False)
    """
    return is_in("es", text)


def is_in(language: str, text: str) -> bool:
    """Return whether a text is in a language, by its beginning, middle and end; true if it is too short to identify.

    The identifier is py3langid's (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"), a
    naive Bayes classifier over byte n-grams, with the package's model.

    Args:
        language: py3langid's code, such as "es".
        text: the text.
    """
    if len(text) < MIN_IDENTIFIABLE:
        return True
    return _identifier().probability(language, _slices(text)) >= MIN_PROBABILITY


def _slices(text: str) -> str:
    """Return beginning, middle and end of a long text."""
    if len(text) <= 3 * SLICE:
        return text
    middle = (len(text) - SLICE) // 2
    return f"{text[:SLICE]} {text[middle : middle + SLICE]} {text[-SLICE:]}"


class _Identifier:
    """py3langid's identifier with the same probabilities, up to rounding, in a sixth of the time.

    The package finds n-grams by an automaton (Aho and Corasick 1975, "Efficient string matching") that reads one byte
    after the other. Its state depends only on the last few bytes, as many as the longest n-gram has. So here the states
    at all positions are computed together, each from that many bytes before it.
    """

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._moves = np.frombuffer(model.tk_nextmove, dtype=model.tk_nextmove.typecode)  # 256 per row
        self._rows = np.frombuffer(model.tk_row, dtype=model.tk_row.typecode).astype(np.int64) * 256  # of each state
        self._features = np.array(model.tk_output, dtype=np.int32)  # -1: none
        self._table = model.nb_ptc.astype(np.float32)  # the package converts it for each text: most of its time
        self._prior = model.nb_pc
        self.languages: list[str] = list(model.nb_classes)
        self._longest = self._depth()

    def probability(self, language: str, text: str) -> float:
        """Return the probability that a text is in a language, among the model's languages."""
        scores = self._scores(text)
        return float(scores[self.languages.index(language)] / scores.sum())

    def most_likely(self, text: str) -> str:
        """Return the most probable language of a text."""
        return self.languages[int(self._scores(text).argmax())]

    def _scores(self, text: str) -> NDArray[np.float32]:
        """Return the unnormalized probabilities of all languages."""
        text = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
        written = np.frombuffer(text.encode(errors="surrogatepass"), dtype=np.uint8)
        found = self._features[self._states(written)]
        # Sorted, so that the table is read in order.
        features, counts = np.unique(found[found >= 0], return_counts=True)
        scores = np.log1p(counts.astype(np.float32)) @ self._table[features] + self._prior
        if not len(features):
            scores = np.zeros_like(self._prior)
        scores *= 1.0 / math.sqrt(len(written) or 1)
        np.exp(scores - scores.max(), out=scores)
        return scores

    def _states(self, written: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Return the automaton's state after each byte, (N,)."""
        states = np.zeros(len(written), dtype=np.int64)
        for back in reversed(range(min(self._longest, len(written)))):
            # A position with fewer bytes before it is still in the initial state.
            states[back:] = self._moves[self._rows[states[back:]] + written[: len(written) - back]]
        return states

    def _depth(self) -> int:
        """Return the depth of the automaton: the length of the longest n-gram."""
        moves = self._moves.reshape(-1, 256)
        depth, reached = 0, np.zeros(len(self._rows), dtype=bool)
        states = np.zeros(1, dtype=np.int64)
        while len(states):
            reached[states] = True
            following = np.zeros(len(reached), dtype=bool)
            following[moves[np.unique(self._rows[states] // 256)]] = True
            states = np.flatnonzero(following & ~reached)
            depth += bool(len(states))
        return depth


@functools.cache
def _identifier() -> _Identifier:
    return _Identifier()


def _is_disambiguation(title: str, raw_text: str) -> bool:
    if title.casefold().endswith("(desambiguación)") or ("{{" in raw_text and "{{desambigua" in raw_text.lower()):
        return True
    text = raw_text.lstrip()
    begins = text[:BEGINNING].lower()
    return any(hint in begins for hint in DISAMBIGUATION_HINTS) and DISAMBIGUATION.match(text) is not None


def _is_list(raw_text: str, clean_text: str) -> bool:
    """Return whether more than half of the characters are in list items."""
    lines = trailing_sections(raw_text).splitlines()
    bulleted = sum(len(line) for line in lines if not line[:1].isalpha() and BULLET.match(line))
    if bulleted > sum(map(len, lines)) / 2:
        return True
    lines = clean_text.split("\n")
    items = [line for line in lines if len(line) < ITEM_LENGTH and not line.endswith(SENTENCE_ENDS)]
    return len(items) > 2 and sum(map(len, items)) > len(clean_text) / 2
