"""What only determinism, position, tokenizer, splits and selection catch, and what they let pass."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import (
    MAX_LENGTH,
    QUICK,
    DropoutLeftOn,
    InSmallLetters,
    KnowsTheWindows,
    NormedOverTheBatch,
    honest,
    texts,
    tokenizer,
    train,
)
from torch import nn

import minillm
from minillm.data.subset import Subset
from minillm.errors import SettingError
from minillm.evaluation.article_sums import ArticleSums
from minillm.evaluation.audit import Determinism, Position, Selection, Splits, TokenizerCheck
from minillm.evaluation.language_modelling import Measured
from minillm.evaluation.subject import Split, Subject
from minillm.language_model import EncodedTexts
from minillm.tokenization import BPETokenizer, Tokenizer, WordTokenizer


def audited(network: nn.Module, given: dict[str, list[str]] | None = None, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "tokenizer": tokenizer(),
        "max_length": MAX_LENGTH,
        "evaluator": QUICK,
        **(given or texts()),
        **changes,
    }
    return dict(minillm.audit(network, **options))


def faults(result: dict[str, Any]) -> list[str]:
    return [name for name, check in result["audit"].items() if check["verdict"] == "fault"]


def subject(given: dict[str, list[str]], vocabulary: Tokenizer | None = None, **changes: Any) -> Subject:
    vocabulary = vocabulary or tokenizer()
    splits = {name: Split(EncodedTexts(articles, vocabulary), articles) for name, articles in given.items()}
    return Subject(honest(), len(vocabulary), MAX_LENGTH, splits, tokenizer=vocabulary, **changes)


def test_dropout_that_is_left_on_is_caught_by_determinism() -> None:
    result = audited(DropoutLeftOn(honest()))
    assert faults(result) == ["determinism"]
    assert "read twice" in result["findings"][0]
    assert "(see determinism)" in result["audit"]["causality"]["finding"]


def test_logits_that_depend_on_the_batch_are_caught_by_determinism() -> None:
    result = audited(NormedOverTheBatch(honest()))
    assert "determinism" in faults(result)
    assert "other texts in the batch" in result["audit"]["determinism"]["finding"]
    assert result["audit"]["determinism"]["repeated"] == 0


def test_windows_that_are_known_by_their_first_words_are_caught_by_position() -> None:
    every = [article for articles in texts().values() for article in articles]
    result = audited(KnowsTheWindows(honest(), every))
    assert faults(result) == ["position"]
    position = result["audit"]["position"]
    assert position["elsewhere"] > position["usual"] + 0.1
    assert "windows and not the language" in result["findings"][0]


def test_of_articles_of_one_window_nothing_is_said_of_position() -> None:
    short = {name: [text[:200] for text in articles] for name, articles in texts().items()}
    assert Position()(subject(short))["verdict"] == "none"


@pytest.mark.parametrize("kind", [WordTokenizer, BPETokenizer])
def test_a_vocabulary_fitted_on_the_test_text_is_caught_by_tokenizer(kind: type[Tokenizer]) -> None:
    given = texts()
    for fitted_on, verdict in (["train"], "fine"), (["train", "val", "test"], "fault"):
        vocabulary = kind()
        vocabulary.fit([text for name in fitted_on for text in given[name]], 6000)
        found = TokenizerCheck()(subject(given, vocabulary))
        assert found["verdict"] == verdict, found["finding"]
        assert (found["only_in_val_or_test"] >= 10) is (verdict == "fault")
        assert (found["unexplained"] == 0) is (verdict == "fine")
    assert "fitted on validation or test text" in found["finding"]


def test_only_the_tokenizer_check_catches_a_vocabulary_fitted_on_the_test_text() -> None:
    vocabulary = WordTokenizer()
    vocabulary.fit([text for articles in texts().values() for text in articles], 6000)
    result = audited(train(texts()["train"], epochs=2, vocabulary=vocabulary), tokenizer=vocabulary)
    assert faults(result) == ["tokenizer"]


def test_a_vocabulary_fitted_on_still_other_text_is_no_fault() -> None:
    given = texts()
    vocabulary = WordTokenizer()
    vocabulary.fit(given["train"], 6000)
    found = TokenizerCheck()(subject({**given, "train": given["train"][:70]}, vocabulary))
    assert found["unexplained"] > 500
    assert found["verdict"] == "fine"


def test_a_tokenizer_that_loses_capitals_and_accents_is_caught_by_tokenizer() -> None:
    lossy = InSmallLetters()
    lossy.fit(texts()["train"], 300)
    result = audited(train(texts()["train"], epochs=5, vocabulary=lossy), tokenizer=lossy)
    assert faults(result) == ["tokenizer"]
    assert 0.05 < result["audit"]["tokenizer"]["lost"] < 0.5
    assert "loses text" in result["findings"][0]


def test_without_training_text_a_tokenizer_is_asked_for_losses_alone() -> None:
    found = TokenizerCheck()(subject({"test": texts()["test"]}))
    assert found["verdict"] == "fine"
    assert found["unexplained"] is None
    assert TokenizerCheck()(subject({"train": texts()["train"], "test": texts()["test"]}, own_test=False))["lost"] == 0


def test_an_article_in_val_and_test_is_caught_by_splits() -> None:
    given = texts()
    result = audited(honest(), {**given, "val": [*given["val"], given["test"][3]]})
    assert faults(result) == ["splits"]
    assert len(result["audit"]["splits"]["near_duplicates"]) == 1
    assert "chosen on test" in result["findings"][0]


def test_val_and_test_of_different_kinds_are_caught_by_splits() -> None:
    given = texts()
    rest = [*given["val"], *given["test"], *given["train"][100:]]

    def digits(text: str) -> float:
        return sum(map(str.isdigit, text)) / len(text)

    by_digits = sorted(rest, key=digits)
    result = audited(honest(), {"train": given["train"][:100], "val": by_digits[:60], "test": by_digits[-60:]})
    assert "splits" in faults(result)
    assert result["audit"]["splits"]["told_apart"] > 0.8
    assert "not the same kind of text" in result["audit"]["splits"]["finding"]


def test_a_network_tuned_on_the_test_text_is_caught_by_selection() -> None:
    given = texts()
    result = audited(train([*given["train"], *given["test"]], epochs=4))
    assert faults(result) == ["selection"]
    assert "trained or tuned on test" in result["findings"][0]


def test_other_text_than_the_run_s_own_is_not_compared_with_val() -> None:
    other = subject({**texts(), "test": texts()["train"]}, own_test=False)
    assert Selection()(other)["verdict"] == "none"
    assert Splits()(other)["verdict"] == "none"


def dealt(random: np.random.Generator, articles: int) -> ArticleSums:
    """Articles of one kind: lengths with a heavy tail, each harder or easier as a whole."""
    tokens = random.lognormal(5, 1, articles).astype(np.int64) + 1
    nats = tokens * random.normal(4, 0.5, articles)
    none = np.zeros(articles, dtype=np.int64)
    return ArticleSums(np.arange(articles), tokens, nats, none, none, none, tokens * 4, none)


def test_selection_gives_false_alarms_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    given = subject({name: texts()[name] for name in ("val", "test")})
    alarms = 0
    for _ in range(1000):
        given.__dict__["measured"] = {
            name: Measured({}, 0, dealt(random, articles))  # type: ignore[typeddict-item]
            for name, articles in (("val", 25), ("test", 40))
        }
        alarms += Selection(alarm=0.05, deals=99)(given)["verdict"] == "fault"
    # By hand: 50 expected, with a standard deviation of 6.9.
    assert 30 <= alarms <= 70


def test_splits_give_false_alarms_no_more_often_than_they_say() -> None:
    random = np.random.default_rng(0)
    every = [text for articles in texts().values() for text in articles]
    encoded = EncodedTexts(every, tokenizer())
    alarms = 0
    for _ in range(200):
        order = random.permutation(len(every))
        val, test = (Subset(encoded, order[start : start + 40]) for start in (0, 40))
        told, chance = Splits(alarm=0.05)._distinguish(val, test, len(tokenizer()))
        alarms += chance <= 0.05
        assert told < 0.85
    # By hand: 10 expected, with a standard deviation of 3.1.
    assert alarms <= 20


@pytest.mark.parametrize(
    ("check", "setting"),
    [
        (Determinism, {"rows": 2}), (Determinism, {"tolerance": float("nan")}), (Position, {"alarm": 0.0}),
        (Position, {"articles": 3}), (Selection, {"deals": 10}), (Splits, {"separable": 0.4}),
        (TokenizerCheck, {"lost": 0.0}),
    ],
)  # fmt: skip
def test_a_setting_outside_its_range_is_named(check: type, setting: dict[str, float]) -> None:
    [name] = setting
    with pytest.raises(SettingError, match=name):
        check(**setting)


def test_not_a_number_is_no_agreement() -> None:
    class Broken(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.full((*ids.shape, len(tokenizer())), float("nan"))

    splits = {"test": Split(EncodedTexts(texts()["test"], tokenizer()), texts()["test"])}
    assert Determinism()(Subject(Broken(), len(tokenizer()), MAX_LENGTH, splits))["verdict"] == "fault"
