"""Does the tokenizer keep the text, and was it made without the text that judges the network?"""

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
LONGEST = 3000  # characters of a text that are put through the tokenizer and back
MOST_ENTRIES = 2000  # that the training text does not explain at once, and that are looked for in it
FEWEST = 10  # entries that only val and test explain: of fewer nothing is made


@dataclass(frozen=True)
class TokenizerCheck:
    """Puts test text through the tokenizer and back, and looks for entries that only val and test can explain.

    A tokenizer that drops what it does not know, or writes all in small letters, has the network predict an easier
    text; perplexity and bits per byte are then those of another text. (An [UNK] is priced, and no loss.) Spaces are
    left out of it: many tokenizers rule them.

    Every entry of a vocabulary that was fitted on the training text stands somewhere in that text. Entries that do not,
    nearly all of which stand in val or test, can only come from there. A vocabulary that was fitted on still other text
    has entries that stand in neither, and is no fault. That is asked of this project's tokenizers alone: those of
    others come from text that nobody has at hand.

    Args:
        lost: share of the letters and digits that may come back otherwise: some tokenizers write marks in
            another way (the ² of "km²"), which comes to 0.0001 of a text.
        only: share of the entries that the training text does not explain, from which on val and test are where they
            come from. Of a vocabulary fitted on other text 0.15 of such entries stood in them: to be in text with 0.43
            of the training text's size (15 + 15 % against 70 %) and not in that itself is rare.
        texts: test articles that are put through, evenly over the split.
        max_bytes: training text that is looked through at most.

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
        """Return what the tokenizer loses, and which entries only val and test explain."""
        if subject.tokenizer is None:
            return finding("none", "The tokenizer was not checked: there is none at hand.", self.lost)
        lost, example = self._lost(subject)
        unexplained, only = self._unexplained(subject)
        share = len(only) / max(1, len(unexplained or ()))
        verdict: Verdict = "fault"
        kept = f"{lost:.2%} of the text comes back otherwise from the tokenizer ({self.lost:.0%} is allowed)"
        if lost > self.lost:
            sentence = (
                f"The tokenizer loses text: {lost:.1%} of it comes back otherwise ({self.lost:.0%} is allowed), such "
                f"as {example}: the network predicts an easier text than the one that is said."
            )
        elif len(only) >= FEWEST and share >= self.only:
            shown = ", ".join(f"“{entry.strip()}”" for entry in only[:3])
            sentence = (
                f"The tokenizer was fitted on text that judges the network: {len(only)} entries of its vocabulary, "
                f"such as {shown}, stand nowhere in the training text, but in val or test."
            )
        else:
            verdict = "fine"
            explained = (
                "" if unexplained is None else f", and no {FEWEST} entries of its vocabulary come from val or test"
            )
            sentence = f"The tokenizer keeps the text: {kept}{explained}."
        return finding(
            verdict,
            sentence,
            self.lost,
            lost=lost,
            unexplained=None if unexplained is None else len(unexplained),
            only_in_val_or_test=None if unexplained is None else len(only),
        )

    def _lost(self, subject: Subject) -> tuple[float, str]:
        """Return the share of letters and digits, but for unknown ones, that come back otherwise; and an example."""
        assert subject.tokenizer is not None
        texts = subject.samples["test"].texts
        changed = kept = 0
        example = ""
        for index in evenly(len(texts), self.texts):
            text = texts[index]
            if len(text) > LONGEST:
                text = text[: text.rfind(" ", 1, LONGEST) + 1] or text[:LONGEST]
            given = WORD.findall(text)
            back = WORD.findall(_decoded(subject.tokenizer, subject.tokenizer.encode(text)))
            if given == back:
                kept += sum(map(len, given))
                continue
            for kind, first, last, start, stop in SequenceMatcher(None, given, back, autojunk=False).get_opcodes():
                if kind == "equal":
                    kept += sum(map(len, given[first:last]))
                    continue
                if (
                    UNKNOWN in back[start:stop]
                ):  # what unknown tokens stand for is priced; parts of words stand beside them
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
        """Return the entries that stand nowhere in the training text, and those of them that stand in val or test.

        None: not all of the training text could be looked through, or it is not at hand, or the tokenizer is not one of
        this project.
        """
        tokenizer = subject.tokenizer
        if "train" not in subject.splits or not isinstance(tokenizer, Tokenizer) or not subject.own_test:
            return None, []
        unused = np.flatnonzero(subject.frequencies["train"] == 0)
        unused = unused[unused >= len(SPECIAL_TOKENS)]
        unused = unused[evenly(len(unused), MOST_ENTRIES)]
        entries = {}
        for token in unused.tolist():
            # The vocabulary spells bytes otherwise than text does, and words otherwise than they are put together.
            spellings = {tokenizer.token(token), tokenizer.decode([token])}
            if not any("\N{REPLACEMENT CHARACTER}" in spelling for spelling in spellings):  # part of a character
                entries[tokenizer.token(token)] = spellings
        if tokenizer.kind == "bpe":
            entries = {entry: spellings for entry, spellings in entries.items() if len(entry) > 1}  # no byte is learned
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
        """Return the entries that no text holds; None: there is too much text to say so."""
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
    """Return the text of ids, with spaces around each unknown token."""
    known = (list(run) for unknown, run in groupby(ids, lambda token: token == UNK) if not unknown)
    runs = [tokenizer.decode(run) for run in known]
    separator = f" {UNKNOWN} "
    begins, ends = (separator if ids and ids[place] == UNK else "" for place in (0, -1))
    return begins + separator.join(runs) + ends
