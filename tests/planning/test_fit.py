"""The laws are those of the trials, and a trial can be made again."""

import math
from pathlib import Path

import pytest

from minillm.planning.fit import TRIALS, fitted
from minillm.planning.laws import laws
from minillm.planning.trials import Trial, read, run, write


def test_the_laws_are_what_the_trials_fit() -> None:
    for law, numbers in fitted(read(TRIALS)).items():
        for name, number in numbers.items():
            assert laws().table[law][name] == pytest.approx(number, rel=0.01), f"{law}.{name}"


def test_the_trials_are_as_good_as_the_law_expects() -> None:
    for trial, outcome in read(TRIALS).items():
        if trial.corpus == "sample" and trial.adamw_lr > 0.008:
            seen = trial.tokens * outcome.train_bytes / outcome.train_tokens
            expected = laws().bits_per_byte(outcome.parameters, seen, outcome.train_bytes)
            assert math.isclose(outcome.val, expected, rel_tol=0.05), trial


def test_a_table_of_trials_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "trials.csv", read(TRIALS))
    assert (tmp_path / "trials.csv").read_bytes() == TRIALS.read_bytes()


def test_a_trial_ends_after_its_tokens_and_learns(data_dir: Path) -> None:
    corpus = ["data.num_articles=60"]
    little, more = (
        run(Trial("some", tokens, 32, vocab_size=400, max_length=64, adamw_lr=0.02), corpus, str(data_dir))
        for tokens in (2_000, 20_000)
    )
    assert more.val < little.val < math.log2(400)
    assert more.parameters == little.parameters == 400 * 32 + 2 * (4 * 32**2 + 3 * 32 * 128)
    assert little.train_tokens < little.train_bytes
