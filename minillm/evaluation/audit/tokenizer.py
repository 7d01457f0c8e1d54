"""Whether the tokenizer preserves text, and was fitted without val and test."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, groupby

import numpy as np

from minillm.errors import SettingError
from minillm.evaluation.audit.chance import evenly
from minillm.evaluation.audit.finding import Finding, finding
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject
from minillm.tokenization import SPECIAL_TOKENS, UNK, Tokenizer

UNKNOWN = SPECIAL_TOKENS[UNK]
WORD = re.compile(rf"{re.escape(UNKNOWN)}|\w+")
MAX_CHARACTERS = 3000  # of a text that is encoded and decoded
MAX_ENTRIES = 2000  # unused in the training tokens, to search for in the training text
MIN_ENTRIES = 10  # that only val and test contain, for a fault


@dataclass(frozen=True)
class TokenizerCheck:
    """Encodes and decodes test text, and searches for entries that can only come from val and test.

    With a tokenizer that drops unknown text, or lowercases, the network predicts an easier text, and its perplexity and
    bits per byte are those of that text. ([UNK] is no such loss, since its cost is counted.) Spaces are ignored, since
    many tokenizers normalize them.

    Every entry of a vocabulary fitted on the training text occurs in that text. If nearly all entries that do not occur
    there occur in val or test, they come from these. A vocabulary fitted on other text has entries that occur in
    neither, which is no fault. This part only applies to this project's tokenizers, since the training text of other
    tokenizers is unknown.

    Args:
        lost: allowed share of letters and digits that change: some tokenizers normalize characters (the ² of "km²"),
            which are 0.0001 of a text.
        only: share of the entries missing in the training text that must occur in val or test for a fault. With a
            vocabulary fitted on other text it was 0.15: few entries occur in text of 0.43 times the training text's
            size (15 + 15 % to 70 %) but not in the training text itself.
        texts: test articles to encode and decode, evenly spaced.
        max_bytes: maximum training text to search.

    Raises:
        SettingError: a value outside its range.
    """

    lost: float = 0.01
    only: float = 0.9
    texts: int = 50
    max_bytes: int = 400_000_000

    def __post_init__(self) -> None:
        for name in ("lost", "only"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(name, getattr(self, name), "must be over 0 and at most 1")
        for name in ("texts", "max_bytes"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "must be at least 1")

    def __call__(self, subject: Subject) -> Finding:
        """Check what the tokenizer loses, and which entries only val and test contain."""
        if subject.tokenizer is None:
            return finding("none", "The tokenizer was not checked: it is not available.", self.lost)
        lost, example = self._lost(subject)
        unexplained, only = self._unexplained(subject)
        share = len(only) / max(1, len(unexplained or ()))
        verdict: Verdict = "fault"
        kept = f"decoding changes {lost:.2%} of the text ({self.lost:.0%} is allowed)"
        if lost > self.lost:
            sentence = (
                f"The tokenizer loses text: decoding changes {lost:.1%} of it ({self.lost:.0%} is allowed), such as "
                f"{example}: the network predicts an easier text than the given one."
            )
        elif len(only) >= MIN_ENTRIES and share >= self.only:
            shown = ", ".join(f"“{entry.strip()}”" for entry in only[:3])
            sentence = (
                f"The tokenizer was fitted on validation or test text: {len(only)} entries of its vocabulary, such as "
                f"{shown}, are not in the training text, but in val or test."
            )
        else:
            verdict = "fine"
            explained = "" if unexplained is None else f", and under {MIN_ENTRIES} of its entries come from val or test"
            sentence = f"The tokenizer preserves the text: {kept}{explained}."
        return finding(
            verdict,
            sentence,
            self.lost,
            lost=lost,
            unexplained=None if unexplained is None else len(unexplained),
            only_in_val_or_test=None if unexplained is None else len(only),
        )

    def _lost(self, subject: Subject) -> tuple[float, str]:
        """Return the share of letters and digits, except unknown words, that change, and an example."""
        assert subject.tokenizer is not None
        texts = subject.samples["test"].texts
        changed = kept = 0
        example = ""
        for index in evenly(len(texts), self.texts):
            text = texts[index]
            if len(text) > MAX_CHARACTERS:
                text = text[: text.rfind(" ", 1, MAX_CHARACTERS) + 1] or text[:MAX_CHARACTERS]
            given = WORD.findall(text)
            back = WORD.findall(_decoded(subject.tokenizer, subject.tokenizer.encode(text)))
            if given == back:
                kept += sum(map(len, given))
                continue
            for kind, first, last, start, stop in SequenceMatcher(None, given, back, autojunk=False).get_opcodes():
                if kind == "equal":
                    kept += sum(map(len, given[first:last]))
                    continue
                if UNKNOWN in back[start:stop]:  # its cost is counted; parts of words can be beside it
                    here = " ".join(given[first:last])
                    other = sum(len(word) for word in back[start:stop] if word != UNKNOWN and word not in here)
                else:
                    other = max(sum(map(len, given[first:last])), sum(map(len, back[start:stop])))
                changed += other
                if other:
                    became = " ".join(back[start : min(stop, start + 4)]) or "nothing"
                    example = example or f"“{' '.join(given[first : min(last, first + 4)])}” as “{became}”"
        return changed / max(1, changed + kept), example

    def _unexplained(self, subject: Subject) -> tuple[list[str] | None, list[str]]:
        """Return the entries that do not occur in the training text, and those of them that occur in val or test.

        None if the training text is too large or not available, or the tokenizer is not one of this project's.
        """
        tokenizer = subject.tokenizer
        if "train" not in subject.splits or not isinstance(tokenizer, Tokenizer) or not subject.own_test:
            return None, []
        unused = np.flatnonzero(subject.frequencies["train"] == 0)
        unused = unused[unused >= len(SPECIAL_TOKENS)]
        unused = unused[evenly(len(unused), MAX_ENTRIES)]
        entries = {}
        for token in unused.tolist():
            # The vocabulary's spelling of an entry can differ from its text.
            spellings = {tokenizer.token(token), tokenizer.decode([token])}
            if not any("\N{REPLACEMENT CHARACTER}" in spelling for spelling in spellings):  # part of a character
                entries[tokenizer.token(token)] = spellings
        if tokenizer.kind == "bpe":  # without bytes, which are not learned
            entries = {entry: spellings for entry, spellings in entries.items() if len(entry) > 1}
        train = subject.splits["train"]
        texts: Iterable[str] = train.texts if train.whole is None else train.whole
        left = self._not_in(texts, entries)
        if left is None:
            return None, []
        others = [subject.samples[name].texts for name in subject.samples if name != "train"]
        absent = self._not_in(chain(*others), left)
        if absent is None:
            return None, []
        only = [entry for entry in left if entry not in absent]
        return list(left), [min(left[entry], key=len) for entry in only]

    def _not_in(self, texts: Iterable[str], entries: dict[str, set[str]]) -> dict[str, set[str]] | None:
        """Return the entries that occur in no text; None: there is too much text."""
        left = dict(entries)
        read = 0
        for text in texts:
            if not left:
                break
            if read > self.max_bytes:
                return None
            read += len(text)
            left = {
                entry: spellings for entry, spellings in left.items() if not any(each in text for each in spellings)
            }
        return left


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of ids, with spaces around each [UNK]."""
    known = (list(run) for unknown, run in groupby(ids, lambda token: token == UNK) if not unknown)
    runs = [tokenizer.decode(run) for run in known]
    separator = f" {UNKNOWN} "
    begins, ends = (separator if ids and ids[place] == UNK else "" for place in (0, -1))
    return begins + separator.join(runs) + ends
