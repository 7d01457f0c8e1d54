"""Each planted fault is caught by the right check and by no other."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted import (
    LENIENT,
    MAX_LENGTH,
    QUICK,
    LeakingAtOnePlace,
    OnlyIds,
    honest,
    texts,
    tokenizer,
    train,
    with_attention,
)
from torch import nn

import minillm
from minillm.data.batching import EvaluationBatches, Windows
from minillm.errors import SettingError
from minillm.evaluation.audit import Alignment, Audit, Causality, Contamination, Inflation, Plausibility
from minillm.evaluation.audit.inflation import padding_counted
from minillm.evaluation.subject import Split, Subject
from minillm.language_model import EncodedTexts
from minillm.models import MiniGPT
from minillm.models.unmasked import UnmaskedSelfAttention
from minillm.tokenization import UNK


def audited(network: nn.Module, **changes: Any) -> dict[str, Any]:
    given = {"texts": texts(), "max_length": MAX_LENGTH, "evaluator": QUICK, **changes}
    return dict(minillm.audit(network, tokenizer=tokenizer(), **given.pop("texts"), **given))


def failed(result: dict[str, Any]) -> list[str]:
    names = [name for name, check in result["audit"].items() if check["verdict"] == "fault"]
    assert result["trustworthy"] is (not names)
    for number, name in enumerate(names):
        assert result["findings"][number] == result["audit"][name]["finding"]
    return names


def subject(**changes: Any) -> Subject:
    splits = {name: Split(EncodedTexts(articles, tokenizer()), articles) for name, articles in texts().items()}
    return Subject(
        **{
            "network": honest(),
            "vocab_size": len(tokenizer()),
            "max_length": MAX_LENGTH,
            "splits": splits,
            "tokenizer": tokenizer(),
            **changes,
        }
    )


def test_an_honest_network_passes_all_even_if_it_takes_only_ids() -> None:
    result = audited(OnlyIds(honest()))
    assert failed(result) == []
    assert all(check["verdict"] == "fine" for check in result["audit"].values())
    assert len(result["findings"]) == 11


def test_a_network_without_causal_mask_is_caught_by_causality() -> None:
    result = audited(with_attention(UnmaskedSelfAttention)(honest()))
    assert failed(result) == ["causality"]
    assert "each word can look at the words after it: the causal mask is missing." in result["findings"][0]
    assert result["audit"]["causality"]["places"] == list(range(MAX_LENGTH - 1))


def test_a_mask_that_leaks_at_one_place_is_caught_by_causality() -> None:
    result = audited(with_attention(LeakingAtOnePlace)(honest()))
    assert failed(result) == ["causality"]
    assert result["audit"]["causality"]["places"] == [5]


def test_batches_whose_targets_are_not_shifted_are_caught_by_alignment() -> None:
    windows = Windows(EncodedTexts(texts()["val"], tokenizer()), MAX_LENGTH)
    batches = [windows.__getitems__(batch) for batch in EvaluationBatches(windows.lengths, 16)]
    right = LENIENT(subject(loaders={"val": batches}))
    assert all(check["verdict"] == "fine" for check in right.values())
    unshifted = [{**batch, "targets": batch["inputs"]} for batch in batches]
    found = LENIENT(subject(loaders={"val": unshifted}))
    assert [name for name, check in found.items() if check["verdict"] == "fault"] == ["alignment"]
    assert found["alignment"]["misaligned"]["val"] > 0.8  # [UNK] often follows [UNK]
    assert "val" in found["alignment"]["finding"]


def test_a_network_trained_on_unshifted_targets_is_caught_by_alignment() -> None:
    result = audited(train(texts()["train"], epochs=2, shift=0))
    assert failed(result) == ["alignment"]
    assert result["audit"]["alignment"]["copied"] > 0.95
    assert "(see alignment)" in result["audit"]["plausibility"]["finding"]


def changed_words(text: str, share: float) -> str:
    choose = random.Random(0)
    words = text.split()
    for place in choose.sample(range(len(words)), int(share * len(words))):
        words[place] = choose.choice(texts()["val"][0].split())
    return " ".join(words)


@pytest.mark.parametrize(
    "copies", [lambda test: test, lambda test: test[7:8], lambda test: [changed_words(test[7], 0.3)]],
    ids=["all", "one", "one with 30 % of its words changed"],
)  # fmt: skip
def test_test_articles_in_the_training_text_are_caught_by_contamination(copies: Any) -> None:
    given = texts()
    result = audited(honest(), texts={**given, "train": given["train"] + copies(given["test"])})
    assert failed(result) == ["contamination"]
    near = result["audit"]["contamination"]["near_duplicates"]
    assert {copy["split"] for copy in near} == {"test"}
    assert len(near) == len(copies(given["test"]))


def test_a_copied_passage_is_caught_by_its_long_sequences() -> None:
    given = texts()
    passages = [" ".join(text.split()[:20]) for text in given["test"]]  # too short for near copies
    found = Contamination()(subject(splits={
        name: Split(EncodedTexts(articles, tokenizer()), articles)
        for name, articles in {**given, "train": given["train"] + passages}.items()
    }))  # fmt: skip
    assert found["verdict"] == "fault"
    assert found["near_duplicates"] == []
    # By hand: 20 words hold 8 sequences of 13, of all those of the test split.
    assert 0.05 < found["sequences"]["test"] < 0.12


def test_a_network_that_has_its_text_by_heart_is_caught_by_memorization() -> None:
    few = texts()["train"][:20]
    network = train(few, epochs=170)
    assert subject(network=network).measured["train"].figures["loss"] > 3  # what it was not trained on
    result = audited(network, texts={**texts(), "train": few})
    assert failed(result) == ["memorization"]
    assert result["audit"]["memorization"]["exact"]["train"] > 0.7
    assert result["audit"]["memorization"]["exact"]["test"] == 0


def test_accuracy_counted_with_padding_is_caught_by_inflation() -> None:
    measured = subject().measured["test"]
    right = {"test/accuracy": measured.figures["accuracy"], "test/perplexity": measured.figures["perplexity"]}
    assert failed(audited(honest(), reported=right)) == []
    padded = padding_counted(measured)
    assert padded["accuracy"] > right["test/accuracy"] + 0.05
    for name in ("accuracy", "perplexity"):
        result = audited(honest(), reported={**right, f"test/{name}": padded[name]})
        assert failed(result) == ["inflation"]
        assert "counting padding gives" in result["findings"][0]


def test_a_text_that_the_vocabulary_does_not_know_is_caught_by_inflation() -> None:
    share = subject().measured["test"].figures["unk_rate"]
    assert 0.3 < share < 0.6
    result = audited(honest(), evaluator=replace(QUICK, audit=Audit()))
    assert failed(result) == ["inflation"]
    assert (
        f"{share:.0%} of the test words are not in the vocabulary: perplexity counts them as" in result["findings"][0]
    )
    for unknown, warned, passes in ((share + 0.01, 0.1, True), (share - 0.01, 0.1, False), (1.0, 1.0, True)):
        found = Inflation(unknown=unknown, warned=warned)(subject())
        assert found["verdict"] == ("fine" if passes else "fault")
        assert (found["warning"] is not None) == (warned < share)
    for setting in ("unknown", "warned"):
        with pytest.raises(SettingError, match=rf"^{setting}=1.5: must be a share"):
            Inflation(**{setting: 1.5})


def test_accuracy_without_unknown_words_is_that_of_the_other_targets() -> None:
    windows = Windows(EncodedTexts(texts()["test"], tokenizer()), MAX_LENGTH)
    hits = known = 0
    for index in range(len(windows)):
        batch = windows.__getitems__([index])
        counted = batch["targets"] != UNK
        hits += int((honest()(batch["inputs"]).argmax(-1) == batch["targets"])[counted].sum())
        known += int(counted.sum())
    figures = subject().measured["test"].figures
    assert figures["accuracy_without_unknown"] == pytest.approx(hits / known)
    assert figures["unk_rate"] == pytest.approx(1 - known / figures["tokens"])
    assert hits / known < figures["accuracy"]


def test_a_test_accuracy_over_that_of_train_is_explained_by_unknown_words_where_they_are_the_cause() -> None:
    rare = ["Zzyx qwfp wfpq arst. La ciudad de la " * 9] * 4  # mostly unknown, which is easily guessed
    said = Inflation()(subject(splits={**subject().splits, "test": Split(EncodedTexts(rare, tokenizer()), rare)}))
    measured = subject().measured
    assert measured["test"].figures["accuracy"] < measured["train"].figures["accuracy"]
    assert "over train's" not in Inflation()(subject())["finding"]
    other = subject(splits={"train": subject().splits["test"], "test": subject().splits["train"]})
    assert other.measured["test"].figures["accuracy"] > other.measured["train"].figures["accuracy"]
    assert "over train's" not in Inflation()(other)["finding"]  # it has fewer unknown words: they are not the cause
    assert "Test accuracy is over train's" in said["finding"]


def test_an_untrained_network_that_repeats_its_input_is_not_said_to_have_unshifted_targets() -> None:
    torch.manual_seed(0)
    network = MiniGPT(len(tokenizer()), MAX_LENGTH, embedding_dim=64, num_layers=1, dropout=0.0)
    with torch.no_grad():
        network.head.weight = network.embedding.weight
    found = Alignment()(subject(network=network.eval()))
    assert found["copied"] > 0.9
    assert found["verdict"] == "none"
    assert "because it is untrained, not because the targets are not shifted" in found["finding"]
    learned = Alignment()(subject(network=train(texts()["train"], epochs=1, shift=0)))
    assert learned["verdict"] == "fault"


def test_padding_counted_is_the_accuracy_over_all_places_of_full_windows() -> None:
    windows = Windows(EncodedTexts(texts()["test"], tokenizer()), MAX_LENGTH)
    hits = places = 0
    for index in range(len(windows)):
        batch = windows.__getitems__([index])
        hits += int((honest()(batch["inputs"]).argmax(-1) == batch["targets"]).sum())
        hits += MAX_LENGTH - batch["inputs"].size(1)
        places += MAX_LENGTH
    assert padding_counted(subject().measured["test"])["accuracy"] == pytest.approx(hits / places)


def test_a_network_worse_than_bigram_is_weak_and_its_figures_can_be_believed() -> None:
    torch.manual_seed(0)
    result = audited(MiniGPT(len(tokenizer()), MAX_LENGTH, embedding_dim=64, num_layers=1))
    assert failed(result) == []
    assert [name for name, check in result["audit"].items() if check["verdict"] == "weak"] == ["plausibility"]
    assert "worse than that of a bigram model" in result["findings"][0]


def test_a_perplexity_that_no_network_of_the_size_reaches_is_caught_by_plausibility() -> None:
    impossible = subject()
    impossible.measured["test"].figures["perplexity"] = 1.2
    found = Plausibility()(impossible)
    assert found["verdict"] == "fault"
    assert "is impossible" in found["finding"]
    assert 1.2 < found["threshold"] < found["bigram_perplexity"]


def test_what_needs_the_training_text_has_no_verdict_without_it() -> None:
    result = audited(honest(), texts={"test": texts()["test"]})
    verdicts = {name: check["verdict"] for name, check in result["audit"].items()}
    assert verdicts == {
        "causality": "fine", "alignment": "fine", "contamination": "none", "memorization": "none", "inflation": "fine",
        "plausibility": "fine", "determinism": "fine", "position": "fine", "tokenizer": "fine", "splits": "none",
        "selection": "none",
    }  # fmt: skip
    assert result["trustworthy"] is True


def test_thresholds_decide() -> None:
    leaking = subject(network=with_attention(LeakingAtOnePlace)(honest()))
    assert Causality(tolerance=1e9)(leaking)["verdict"] == "fine"
    unshifted = subject(network=train(texts()["train"], epochs=1, shift=0))
    assert Alignment(copying=1e-9)(unshifted)["verdict"] == "fault"
    short = subject(network=train(texts()["train"], epochs=1))
    assert Plausibility(behind=1.0)(short)["verdict"] == "weak"
    assert Plausibility(behind=10.0)(short)["verdict"] == "fine"
