"""Quality: which articles are not worth learning from, and why."""

import functools
import math
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from minillm.corpus.cleaning import trailing_sections
from minillm.errors import SettingError

VERSION = 1  # raised when the same article would be judged otherwise
REASONS = ("redirect", "disambiguation", "list", "not Spanish")

REDIRECT = re.compile(r"\s*#\s*redirec(?:t|ci[óo]n)\b", re.IGNORECASE)
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


@dataclass(frozen=True)
class QualityFilter:
    """Finds articles that hold no Spanish prose.

    Args:
        language: "es" drops articles in another language; None keeps all.
        redirects: drop pages that only send the reader to another one.
        disambiguations: drop pages that only list the meanings of a name.
        lists: drop lists: by title, or because most of the text is in list items.

    Raises:
        SettingError: another language.
    """

    language: str | None = "es"
    redirects: bool = True
    disambiguations: bool = True
    lists: bool = True

    def __post_init__(self) -> None:
        if self.language not in ("es", None):
            raise SettingError("language", self.language, "must be es, or null to keep every language")

    def reason(self, title: str, raw_text: str, clean_text: str) -> str | None:
        """Return why an article is dropped, one of `REASONS`, or None where it is kept.

        Args:
            title: the article's title.
            raw_text: its text as the source has it.
            clean_text: its text after cleaning.
        """
        if self.redirects and REDIRECT.match(raw_text):
            return "redirect"
        if self.disambiguations and _is_disambiguation(title, raw_text):
            return "disambiguation"
        if self.lists and (LIST_TITLE.match(title) or _is_list(raw_text, clean_text)):
            return "list"
        if self.language and not is_spanish(clean_text):
            return "not Spanish"
        return None


def is_spanish(text: str) -> bool:
    """Tell whether a text is Spanish, judged by its beginning, middle and end; one too short to tell passes.

    The identifier is py3langid's (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"), a
    naive Bayes classifier over byte n-grams whose model comes with the package.

    >>> is_spanish("La ciudad fue fundada en 1535. " * 4), is_spanish("The city was founded in 1535. " * 4)
    (True, False)
    """
    if len(text) < TELLING:
        return True
    if len(text) > 3 * SLICE:
        middle = (len(text) - SLICE) // 2
        text = f"{text[:SLICE]} {text[middle : middle + SLICE]} {text[-SLICE:]}"
    return _identifier().probability(text) >= MIN_PROBABILITY


class _Identifier:
    """py3langid's identifier, asked for one language: the same probability to rounding, in a sixth of the time.

    The package finds the n-grams by a walk over the bytes, one after another, of an automaton (Aho and Corasick 1975,
    "Efficient string matching") whose state is known from the last few bytes alone, as many as its longest n-gram has.
    So here all places of the text are walked to at the same time, each from so many bytes before it.

    Args:
        language: as py3langid calls it.
    """

    def __init__(self, language: str) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._moves = np.frombuffer(model.tk_nextmove, dtype=model.tk_nextmove.typecode)  # 256 for each row
        self._rows = np.frombuffer(model.tk_row, dtype=model.tk_row.typecode).astype(np.int64) * 256  # of each state
        self._features = np.array(model.tk_output, dtype=np.int32)  # -1: none
        self._table = model.nb_ptc.astype(np.float32)  # what it computes in; converted at each text, that is most of it
        self._prior = model.nb_pc
        self._language = model.nb_classes.index(language)
        self._longest = self._depth()

    def probability(self, text: str) -> float:
        """Return how likely it is that a text is in the language, among all that the model knows."""
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
        return float(scores[self._language] / scores.sum())

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
            states = np.unique(moves[self._rows[states] // 256])
            states = states[~reached[states]]
            depth += bool(len(states))
        return depth


@functools.cache
def _identifier() -> _Identifier:
    return _Identifier("es")


def _is_disambiguation(title: str, raw_text: str) -> bool:
    return (
        title.casefold().endswith("(desambiguación)")
        or "{{desambigua" in raw_text.lower()
        or DISAMBIGUATION.match(raw_text.lstrip()) is not None
    )


def _is_list(raw_text: str, clean_text: str) -> bool:
    """Tell whether more than half of the characters are in list items."""
    lines = trailing_sections(raw_text).splitlines()
    bulleted = sum(len(line) for line in lines if BULLET.match(line))
    if bulleted > sum(map(len, lines)) / 2:
        return True
    lines = clean_text.split("\n")
    items = [line for line in lines if len(line) < SHORT and not line.endswith(SENTENCE_ENDS)]
    return len(items) > 2 and sum(map(len, items)) > len(clean_text) / 2
