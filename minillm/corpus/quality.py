"""Quality: which articles are not worth learning from, and why; and which language a corpus is in."""

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

VERSION = 1  # raised when the same article would be judged otherwise
REASONS = ("redirect", "disambiguation", "list", "not Spanish", "other language")

REDIRECT = re.compile(r"\s*#\s*redirec(?:t|ci[óo]n)\b", re.IGNORECASE)
MAY = ("pued", "podría")  # one of them is in what the next pattern finds, within so many characters
BEGINNING = 310
DISAMBIGUATION = re.compile(  # "Mercurio puede referirse a:" and a list
    r"[^\n]{0,300}\b(?:pueden?|podría) (?:referirse|hacer referencia|aludir|significar|designar)\b"
    r"[^\n]{0,80}:\s*\n\s*\S",
    re.IGNORECASE,
)
LIST_TITLE = re.compile(r"anexo:|(?:lista|listado) del? ", re.IGNORECASE)
BULLET = re.compile(r"\s*(?:[*#•·▪]|[-–—]\s|\d{1,3}[.)]\s)")
SENTENCE_ENDS = (".", "!", "?", "…", ":", ";", ",", '"', "»")
SHORT = 60  # characters; a shorter line that ends no sentence is an item of a list
SLICE = 400  # characters of each of the three slices by which a text's language is judged
TELLING = 100  # characters; the language of a shorter text cannot be told
MIN_PROBABILITY = 0.3  # of Spanish: Spanish of 200 characters has 0.47 or more, Asturian about 0.2, Portuguese 0.00
AUTO = "auto"
MAJORITY = 2 / 3  # of the articles, from which on a corpus has one language; texts in two have none


@dataclass(frozen=True)
class QualityFilter:
    """Finds articles that hold no prose in the corpus's language.

    Args:
        language: articles in another one are dropped: "es" or another of py3langid's 97 codes; "auto" is for a whole
            corpus: the language that two thirds of its articles have, see `language_of`; None keeps all.
        redirects: drop pages that only send the reader to another one.
        disambiguations: drop pages that only list the meanings of a name.
        lists: drop lists: by title, or because most of the text is in list items.

    Raises:
        SettingError: a language that cannot be told.
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
        """The reason for which articles in another language are dropped."""
        return "not Spanish" if self.language in ("es", None) else "other language"

    def reason(self, title: str, raw_text: str, clean_text: str) -> str | None:
        """Return why an article is dropped, one of `REASONS`, or None where it is kept.

        Args:
            title: the article's title.
            raw_text: its text as the source has it.
            clean_text: its text after cleaning.

        Raises:
            ValueError: the language is "auto", which no single article can tell.
        """
        if self.language == AUTO:
            raise ValueError("auto is the language of a corpus: ask language_of for it first")
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
        code: as py3langid calls it.
        share: of the texts that were long enough to tell, those in it.
    """

    code: str
    share: float


def language_of(texts: Iterable[str]) -> Language | None:
    """Return the language of most texts; None where none is long enough to tell."""
    counts = Counter(_identifier().most_likely(_slices(text)) for text in texts if len(text) >= TELLING)
    if not counts:
        return None
    code, count = counts.most_common(1)[0]
    return Language(code, count / counts.total())


def is_spanish(text: str) -> bool:
    """Tell whether a text is Spanish, see `is_in`.

    >>> is_spanish("La ciudad fue fundada en 1535. " * 4), is_spanish("The city was founded in 1535. " * 4)
    (True, False)
    """
    return is_in("es", text)


def is_in(language: str, text: str) -> bool:
    """Tell whether a text is in a language, judged by its beginning, middle and end; one too short to tell passes.

    The identifier is py3langid's (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"), a
    naive Bayes classifier over byte n-grams whose model comes with the package.

    Args:
        language: as py3langid calls it, such as "es".
        text: the text.
    """
    if len(text) < TELLING:
        return True
    return _identifier().probability(language, _slices(text)) >= MIN_PROBABILITY


def _slices(text: str) -> str:
    """Return beginning, middle and end of a long text."""
    if len(text) <= 3 * SLICE:
        return text
    middle = (len(text) - SLICE) // 2
    return f"{text[:SLICE]} {text[middle : middle + SLICE]} {text[-SLICE:]}"


class _Identifier:
    """py3langid's identifier: the same probabilities to rounding, in a sixth of the time.

    The package finds the n-grams by a walk over the bytes, one after another, of an automaton (Aho and Corasick 1975,
    "Efficient string matching") whose state is known from the last few bytes alone, as many as its longest n-gram has.
    So here all places of the text are walked to at the same time, each from so many bytes before it.
    """

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._moves = np.frombuffer(model.tk_nextmove, dtype=model.tk_nextmove.typecode)  # 256 for each row
        self._rows = np.frombuffer(model.tk_row, dtype=model.tk_row.typecode).astype(np.int64) * 256  # of each state
        self._features = np.array(model.tk_output, dtype=np.int32)  # -1: none
        self._table = model.nb_ptc.astype(np.float32)  # what it computes in; converted at each text, that is most of it
        self._prior = model.nb_pc
        self.languages: list[str] = list(model.nb_classes)
        self._longest = self._depth()

    def probability(self, language: str, text: str) -> float:
        """Return how likely it is that a text is in a language, among all that the model knows."""
        scores = self._scores(text)
        return float(scores[self.languages.index(language)] / scores.sum())

    def most_likely(self, text: str) -> str:
        """Return the language that a text is most likely in."""
        return self.languages[int(self._scores(text).argmax())]

    def _scores(self, text: str) -> NDArray[np.float32]:
        """Return numbers in proportion to the probabilities of all languages."""
        text = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
        written = np.frombuffer(text.encode(errors="surrogatepass"), dtype=np.uint8)
        found = self._features[self._states(written)]
        # In order, so that rows of the table that lie side by side are read together.
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
            # A place with fewer bytes before it is still in the first state, where the text begins.
            states[back:] = self._moves[self._rows[states[back:]] + written[: len(written) - back]]
        return states

    def _depth(self) -> int:
        """Return how many bytes lead to the states that are farthest from the first one."""
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
    return any(word in begins for word in MAY) and DISAMBIGUATION.match(text) is not None


def _is_list(raw_text: str, clean_text: str) -> bool:
    """Tell whether more than half of the characters are in list items."""
    lines = trailing_sections(raw_text).splitlines()
    bulleted = sum(len(line) for line in lines if not line[:1].isalpha() and BULLET.match(line))
    if bulleted > sum(map(len, lines)) / 2:
        return True
    lines = clean_text.split("\n")
    items = [line for line in lines if len(line) < SHORT and not line.endswith(SENTENCE_ENDS)]
    return len(items) > 2 and sum(map(len, items)) > len(clean_text) / 2
