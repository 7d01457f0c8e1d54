"""The work of `scripts/generate.py`: stream one text, write many, or continue prompts interactively."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml

from minillm.configuration import check_arguments
from minillm.errors import MiniLLMError, OutsideError, SettingError
from minillm.evaluation.results import read_evaluation
from minillm.evaluation.schema import Evaluation
from minillm.files import written_whole
from minillm.generation import Sampling
from minillm.language_model import LanguageModel
from minillm.signals import STATUS, Interrupted, signals

STDIO = "-"  # as a file: standard input, or output
MIN_SHOWN_UNK_RATE = 0.01  # a smaller share of [UNK] is not shown


@dataclass
class Writing:
    """The settings of text generation, which an interactive session can change.

    Args:
        model: the model.
        sampling: how tokens are chosen.
        max_new_tokens: maximum tokens of a text.
        n: texts per prompt.
        seed: of the first text's draws; the next text has seed + 1, and so on. None: different draws each time.
        batch_size: texts that are generated together, and prompts that are read ahead.

    Raises:
        SettingError: a number is out of range.
    """

    model: LanguageModel
    sampling: Sampling
    max_new_tokens: int = 100
    n: int = 1
    seed: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, highest in ("n", 1_000_000), ("batch_size", 4096):
            if not 1 <= getattr(self, name) <= highest:
                raise SettingError(name, getattr(self, name), f"must be from 1 to {highest:,}")

    def stream(self, prompt: str, out: TextIO) -> None:
        """Write a prompt's texts while they are generated, separated by empty lines.

        Raises:
            SettingError: the prompt cannot be continued, or a number is out of range.
        """
        seed = self._first_seed()
        for number in range(self.n):
            if number:
                print(file=out)
            seed_of_text = (seed + number) % 2**64
            for piece in self.model.stream(prompt, self.max_new_tokens, self.sampling, seed_of_text):
                print(piece, end="", file=out, flush=True)
            print(file=out, flush=True)

    def texts(self, prompts: Iterator[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Yield a record for each text, in the order of the prompts, in constant memory.

        Args:
            prompts: pairs of a prompt's origin, such as a line of a file, and the prompt.

        Yields:
            ``prompt``, ``text`` (the prompt and its continuation) and ``seed``, with which the prompt alone gives the
            same text; or, for a prompt that the model cannot continue, ``prompt``, ``error`` and ``where``.
        """
        seed = self._first_seed()
        wanted = (item for item in prompts for _ in range(self.n))
        while batch := list(itertools.islice(wanted, self.batch_size)):
            records: list[dict[str, Any]] = []
            good: list[dict[str, Any]] = []
            for where, prompt in batch:
                record: dict[str, Any] = {"prompt": prompt.rstrip(" ")}
                try:
                    self.model.check_prompt(record["prompt"], self.max_new_tokens)
                except SettingError as error:
                    if error.setting != "prompt":
                        raise
                    record |= {"error": error.advice, "where": where}
                else:
                    record |= {"text": "", "seed": (seed + len(good)) % 2**64}
                    good.append(record)
                records.append(record)
            prompts_of = [record["prompt"] for record in good]
            written = self.model.continue_batch(prompts_of, self.max_new_tokens, self.sampling, seed % 2**64)
            for record, continuation in zip(good, written, strict=True):
                record["text"] = record["prompt"] + continuation
            seed += len(good)
            yield from records

    def _first_seed(self) -> int:
        return int(np.random.SeedSequence().generate_state(1)[0]) if self.seed is None else self.seed


def describe(model: LanguageModel, checkpoint: Path) -> str:
    """Return one line about a checkpoint: its model, its bits per byte, and whether the audit trusts these.

    Args:
        model: the loaded model.
        checkpoint: its file.
    """
    parts = [f"{os.path.relpath(checkpoint)}: {model.summary}"]
    evaluation = evaluation_of(checkpoint)
    if evaluation is None:
        bits = model.metrics.get("val/bits_per_byte")
        parts.append("not evaluated" if bits is None else f"val {bits:.3f} bits per byte, not evaluated")
        return "; ".join(parts)
    figures: Mapping[str, Any] = evaluation["splits"]
    bits_of = [f"{split} {figures[split]['bits_per_byte']:.3f}" for split in ("val", "test") if split in figures]
    parts.append(f"{', '.join(bits_of)} bits per byte")
    unknown = evaluation["data"]["unk_rate"].get("test", 0.0)
    if unknown >= MIN_SHOWN_UNK_RATE:
        parts.append(f"{unknown:.0%} of the test words are [UNK]")
    if not evaluation["trustworthy"]:
        finding = next(iter(evaluation["findings"]), "the audit found a fault")
        parts.append(f"NOT TO BE TRUSTED: {finding}")
    return "; ".join(parts)


def evaluation_of(checkpoint: Path) -> Evaluation | None:
    """Return the evaluation beside a checkpoint; None: there is none, it is damaged, or of another checkpoint."""
    if checkpoint.parent.name != "checkpoints":
        return None
    try:
        evaluation = read_evaluation(checkpoint.parents[1])
    except OutsideError:
        return None
    return evaluation if evaluation and Path(str(evaluation["checkpoint"])).name == checkpoint.name else None


def read_prompts(prompts_file: str) -> Iterator[tuple[str, str]]:
    """Yield each line that is not empty, as a pair of its place (file and line number) and its text.

    Args:
        prompts_file: a UTF-8 file, or ``-``: standard input.

    Raises:
        SettingError: no such file, or it is not UTF-8.
    """
    where = "standard input" if prompts_file == STDIO else prompts_file
    number = 0
    try:
        with _opened(prompts_file) as file:
            for number, line in enumerate(file, 1):  # a decoding error is in the line after ``number``
                if prompt := line.strip("\r\n\ufeff"):
                    yield f"{where}:{number}", prompt
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SettingError(
            "prompts_file", prompts_file, f"is not UTF-8 (byte 0x{byte:02x}, after line {number})"
        ) from error
    except OSError as error:
        raise SettingError("prompts_file", prompts_file, f"cannot be read: {error.strerror}") from error


def _opened(prompts_file: str) -> contextlib.AbstractContextManager[TextIO]:
    if prompts_file != STDIO:
        return Path(prompts_file).open(encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    return contextlib.nullcontext(sys.stdin)


def write_texts(writing: Writing, prompts: Iterator[tuple[str, str]], output: str | None) -> None:
    """Write the texts of many prompts.

    Args:
        writing: the settings.
        prompts: as for `Writing.texts`.
        output: a file, written atomically, with a JSON record per line, see `Writing.texts`; ``-``: the records on
            standard output; None: the texts on standard output, separated by empty lines.

    Raises:
        SettingError: the model cannot continue a prompt; the texts of the others are written.
    """
    refused: list[dict[str, Any]] = []
    left_out = 0
    with _written(output) as out:
        for number, record in enumerate(writing.texts(prompts)):
            if "error" in record:
                left_out += 1
                refused = refused or [record]
            if output is not None:
                print(json.dumps(record, ensure_ascii=False), file=out, flush=output == STDIO)
            elif "text" in record:
                print(*([""] if number else []), record["text"], sep="\n", file=out, flush=True)
    if refused:
        first = refused[0]
        place = first["where"]
        raise SettingError(
            "prompt", repr(first["prompt"][:40]), f"{first['error']} ({place}; {left_out} without a text)"
        )


@contextlib.contextmanager
def _written(output: str | None) -> Iterator[TextIO]:
    if output is None or output == STDIO:
        yield sys.stdout
        return
    with written_whole(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


HELP = """\
Type a prompt to continue it. A line that starts with / changes a setting from then on:
  /temperature 0.7   /top_k 50   /top_p 0.9   /repetition_penalty 1.2
  /max_new_tokens 60   /n 3   /seed 0 (null: another text each time)
  /settings shows them, /help this. Ctrl-C ends a text, Ctrl-D the session."""
SAMPLING_SETTINGS = tuple(field.name for field in dataclasses.fields(Sampling))
WRITING_SETTINGS = ("max_new_tokens", "n", "seed")


def interact(writing: Writing) -> None:
    """Continue typed prompts until the input ends; ``/name value`` changes a setting.

    A mistake gives one line, and the session continues. Ctrl-C ends the current text, or the session if there is none.
    """
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401 # arrows and history in input()
        print(HELP, file=sys.stderr)
    while True:
        try:
            line = _typed(is_terminal)
        except Interrupted as end:
            _quietly(end)
            return
        if line is None:
            return
        try:
            if line.startswith("/"):
                writing = _changed(writing, line)
            elif line.strip():
                writing.stream(line, sys.stdout)
        except MiniLLMError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        except Interrupted as end:
            if end.code != STATUS[signal.SIGINT]:
                raise
            signals.answer()  # handle the next signal in the same way
            print(flush=True)


def _typed(is_terminal: bool) -> str | None:
    """Return the next line; None: end of input."""
    try:
        if is_terminal:
            return input("> ")
        line = sys.stdin.readline()
    except EOFError:
        print()
        return None
    except UnicodeDecodeError:
        return "/ is not UTF-8"
    return line.rstrip("\r\n") if line else None


def _quietly(end: Interrupted) -> None:
    """End a session silently on Ctrl-C, and in the usual way on SIGTERM."""
    if end.code != STATUS[signal.SIGINT]:
        raise end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ignore another Ctrl-C while the program exits
    print(flush=True)


def _changed(writing: Writing, line: str) -> Writing:
    """Return the settings after a line that starts with /.

    Raises:
        SettingError: an unknown setting, or an invalid value.
    """
    name, _, text = line[1:].strip().partition(" ")
    name, _, value_after_equals = name.partition("=")
    text = (value_after_equals or text.strip().removeprefix("=")).strip()
    if name in ("help", "?", "settings"):
        shown = {**vars(writing.sampling), **{setting: getattr(writing, setting) for setting in WRITING_SETTINGS}}
        pairs = "  ".join(f"/{setting} {'null' if value is None else value}" for setting, value in shown.items())
        print(pairs if name == "settings" else HELP, file=sys.stderr, flush=True)
        return writing
    known = (*SAMPLING_SETTINGS, *WRITING_SETTINGS)
    if name not in known:
        close = difflib.get_close_matches(name, [*known, "help", "settings"], n=1)
        hint = f"; did you mean /{close[0]}?" if close else "; /help lists them"
        raise SettingError(f"/{name}", text, f"there is no such setting{hint}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingError(name, text, "is not a value") from error
    if name in SAMPLING_SETTINGS:
        check_arguments(Sampling, {name: value})
        return dataclasses.replace(writing, sampling=dataclasses.replace(writing.sampling, **{name: value}))
    check_arguments(Writing, {name: value})
    return dataclasses.replace(writing, **{name: value})
