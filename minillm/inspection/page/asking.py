"""The page's queries to a model, and its facts about it."""

import logging
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from minillm.checkpoint import find_checkpoint
from minillm.data.subset import bounded
from minillm.errors import OutsideError, SettingError
from minillm.evaluation.audit.finding import ORDER
from minillm.evaluation.baselines import NgramBaselines
from minillm.evaluation.report import REPORT
from minillm.evaluation.results import verdict_of
from minillm.evaluation.schema import Evaluation, Verdict
from minillm.evaluation.text import training_data_if_at_hand
from minillm.generation import Sampling
from minillm.inspection.steps import Step
from minillm.language_model import LanguageModel, load
from minillm.tokenization import EOS, UNK
from minillm.writing import evaluation_of

log = logging.getLogger(__name__)

ALTERNATIVES = 10  # shown at each token
COUNTED = 2_000_000  # training tokens of the unigram and bigram models


@dataclass(frozen=True)
class Draft:
    """A visitor's generated text; immutable.

    Args:
        prompt: its beginning.
        steps: the tokens after the prompt.
    """

    prompt: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def ids(self) -> list[int]:
        """The tokens after the prompt."""
        return [step.id for step in self.steps]

    @property
    def has_ended(self) -> bool:
        """Whether the model has ended the article."""
        return bool(self.steps) and self.steps[-1].id == EOS

    def pieces(self) -> Iterator[tuple[str, Step]]:
        """Yield each token with the text that it added; nothing at the end of the article."""
        before = self.prompt
        for step in self.steps:
            # A character of several bytes is complete with its last token; until then its bytes are shown.
            whole = step.text.rstrip("\N{REPLACEMENT CHARACTER}")
            piece = step.text[len(before) :] if whole == step.text else step.token
            yield ("" if step.id == EOS else piece), step
            before = whole

    def instead(self, model: LanguageModel, place: int, choice: int) -> "Draft":
        """Return the text up to a token, with the token replaced by one of its candidates.

        Args:
            model: wrote it.
            place: the token's number.
            choice: the candidate's id.

        Raises:
            IndexError: there is no such token or candidate.
        """
        if not 0 <= place < len(self.steps):
            raise IndexError(f"no token {place} in a text of {len(self.steps)}")
        before, step = self.steps[:place], self.steps[place]
        candidate = next((each for each in step.candidates if each.id == choice), None)
        if candidate is None:
            raise IndexError(f"{choice} is no candidate at token {place}")
        text = model.continued(self.prompt, [*self.ids[:place], choice])
        token, was, became, number = candidate
        return Draft(self.prompt, (*before, replace(step, token=token, id=number, before=was, after=became, text=text)))


class Place(NamedTuple):
    """A token of a text that the model reads.

    Attributes:
        gap: the text between it and the token before.
        surface: its text; empty at the end of the article.
        unknown: whether the model reads [UNK].
        bits, rank, probability, alternatives: see `LanguageModel.surprisal`.
    """

    gap: str
    surface: str
    unknown: bool
    bits: float
    rank: int
    probability: float
    alternatives: list[tuple[str, float]]


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it.

    Attributes:
        places: its tokens.
        bits_per_byte: of the model, and, if its training text is there, of "unigram" and "bigram" models of the same
            tokens; all charge the letters of unknown words.
    """

    places: list[Place]
    bits_per_byte: dict[str, float]


@dataclass(frozen=True)
class Subject:
    """A model on the page.

    Attributes:
        name: on the page.
        model: network and tokenizer.
        checkpoint: its file.
        evaluation: of this checkpoint; None: there is none.
        ngrams: n-gram models of its training text; None: the text is not there.
    """

    name: str
    model: LanguageModel
    checkpoint: Path
    evaluation: Evaluation | None = None
    ngrams: NgramBaselines | None = None

    @classmethod
    def of(cls, setting: str, ckpt: str, data_dir: str | Path, trusted: Collection[str] = ()) -> "Subject":
        """Open a checkpoint with its evaluation and training text.

        Args:
            setting: the setting that named it.
            ckpt: its path, or ``latest``.
            data_dir: folder of the caches.
            trusted: as for `minillm.load`.

        Raises:
            SettingError: no such checkpoint, or a damaged one.
        """
        checkpoint = find_checkpoint(ckpt)
        try:
            model = load(checkpoint, trusted=trusted)
        except SettingError as error:
            raise SettingError(setting, error.value, error.advice) if error.setting == "ckpt" else error from error
        in_run = checkpoint.parent.name == "checkpoints"
        name = checkpoint.resolve().parents[1].name if in_run else checkpoint.stem
        if in_run and checkpoint.stem != "best":
            name = f"{name}, {checkpoint.stem}"
        return cls(name, model, checkpoint, evaluation_of(checkpoint), _counted(model, data_dir, trusted))

    @property
    def language(self) -> str:
        """The language of its training text by its settings; by default Spanish."""
        found: Any = self.model.config
        for name in ("data", "quality", "language"):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) and found.isalpha() else "es"

    @property
    def report(self) -> Path | None:
        """The report of its evaluation; None: there is none."""
        if self.evaluation is None:
            return None
        path = self.checkpoint.parents[1] / REPORT
        return path if path.is_file() else None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its audit."""
        return verdict_of(self.evaluation) if self.evaluation else "none"

    @property
    def checks(self) -> list[tuple[str, dict[str, Any]]]:
        """The audit's checks by name, the most important first."""
        audit = cast(dict[str, dict[str, Any]], self.evaluation["audit"] if self.evaluation else {})
        return sorted(audit.items(), key=lambda check: ORDER.index(check[1]["verdict"]))

    def write(self, draft: Draft, tokens: int, sampling: Sampling, seed: int | None) -> Iterator[Draft]:
        """Yield a text, each time with one more token.

        Args:
            draft: the text so far.
            tokens: the most new tokens.
            sampling: how they are drawn.
            seed: of the draws; None: a new one each time.

        Raises:
            MiniLLMError: as `LanguageModel.steps` does.
        """
        # A continuation draws differently from the beginning, since it could repeat itself otherwise.
        seed = None if seed is None else seed + len(draft.steps)
        steps = self.model.steps(draft.prompt, tokens, **vars(sampling), seed=seed, k=ALTERNATIVES, written=draft.ids)
        for step in steps:
            draft = Draft(draft.prompt, (*draft.steps, step))
            yield draft

    def read(self, text: str) -> Reading:
        """Read a text that is not empty.

        Raises:
            MiniLLMError: as `LanguageModel.surprisal` does.
        """
        table = self.model.surprisal(text, ALTERNATIVES)
        places = []
        read = 0
        columns = ("id", "start", "end", "bits", "rank", "probability", "alternatives", "token")
        for token, start, end, bits, rank, probability, alternatives, name in zip(
            *(table[column].tolist() for column in columns), strict=True
        ):
            # Of a character's several tokens, the first shows the character and the others their bytes.
            surface = "" if token == EOS and end == len(text) else text[max(start, read) : end] or name
            gap = text[read:start]
            places.append(Place(gap, surface, token == UNK, bits, rank, probability, alternatives))
            read = max(read, end)
        size = len(text.encode())
        return Reading(places, {"model": float(table["bits"].sum()) / size, **self._baselines(text, size)})

    def _baselines(self, text: str, size: int) -> dict[str, float]:
        if self.ngrams is None:
            return {}
        ids, unknown_bytes = self.model.tokenizer.encode_counting(text)
        return {
            name: (found["loss"] * found["tokens"] / math.log(2) + 8 * unknown_bytes) / size
            for name, found in self.ngrams.score([ids.tolist()]).items()
        }


def _counted(model: LanguageModel, data_dir: str | Path, trusted: Collection[str]) -> NgramBaselines | None:
    """Return the n-gram models of a model's training text; None: it is not there."""
    try:
        data = training_data_if_at_hand(model, data_dir, trusted)
    except OutsideError as error:
        log.warning("the training text cannot be read: %s", error)
        return None
    if data is None or not len(data.splits["train"]):
        return None
    documents = bounded(data.splits["train"], COUNTED)
    ngrams = NgramBaselines(len(model.tokenizer), model.tokenizer.ends)
    each = (documents[index] for index in range(len(documents)))
    ngrams.fit(document[1 : -1 if document[-1] == EOS else None] for document in each)
    return ngrams
