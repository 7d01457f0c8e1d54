"""Quality: which articles are not worth learning from, and why."""

import functools
import re
from dataclasses import dataclass

import numpy as np
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
    return dict(_identifier().rank(text))["es"] >= MIN_PROBABILITY


@functools.cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # It computes in float32 anyway; converted once, the table costs 57 MB and a text two thirds of the time.
    identifier.nb_ptc = identifier.nb_ptc.astype(np.float32)
    return identifier


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
