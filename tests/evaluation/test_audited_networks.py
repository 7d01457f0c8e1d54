"""Models of other makes have the figures that their own library gives, and their faults are found."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import FOREIGN, PLACES, SIZES, bert, byte_level
from planted import MAX_LENGTH, honest, texts, tokenizer

import minillm
from minillm.evaluation.audit.networks import TransformersNetwork, audited
from minillm.evaluation.evaluation import Evaluator
from minillm.language_model import EncodedTexts
from minillm.tokenization import BOS, EOS

pytest.importorskip("transformers")

QUICK = Evaluator(prompts=("En",), max_new_tokens=2, max_articles=1, latency_runs=1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that makes each model once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = FOREIGN[name](tmp_path_factory.mktemp(name))
        return made[name]

    return make


def verdicts(found: Any) -> dict[str, str]:
    return {name: check["verdict"] for name, check in found["audit"].items()}


def by_its_own_library(path: Path, text: str) -> tuple[float, int]:
    """Return the nats of a text's first window and its tokens, as transformers' own loss has them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, own = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = own(text, add_special_tokens=False)["input_ids"]
    begin = next((t for t in (own.bos_token_id, own.cls_token_id, own.eos_token_id) if t is not None), None)
    end = own.eos_token_id if own.eos_token_id is not None else own.sep_token_id
    ids = ([] if begin is None else [begin]) + ids + ([] if end is None else [end])
    given = torch.tensor([ids])
    with torch.no_grad():
        nats = network.eval()(given, labels=given).loss.item() * (len(ids) - 1)
    if begin is None:  # the first token is paid for as if nothing were known about it
        nats += math.log(network.config.vocab_size)
    return nats, len(ids) - (begin is not None)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_figures_are_those_that_its_own_library_gives(folder: Any, name: str) -> None:
    text = "La ciudad de Córdoba fue fundada."
    found = minillm.audit(folder(name), test=[text], evaluator=QUICK)
    nats, tokens = by_its_own_library(folder(name), text)
    figures = found["splits"]["test"]
    assert figures["tokens"] == tokens <= PLACES
    assert figures["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["data"]["unk_rate"]["test"] == 0
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


@pytest.mark.parametrize("name", FOREIGN)
def test_ids_are_renumbered_and_back_and_texts_come_back(folder: Any, name: str) -> None:
    model = audited(folder(name))
    ids = model.tokenizer.encode("La ciudad de Roma")
    assert min(ids) > EOS
    assert model.tokenizer.decode([BOS, *ids, EOS]).strip() == "La ciudad de Roma"
    assert model.network(torch.tensor([[BOS, *ids]])).shape == (1, len(ids) + 1, len(model.tokenizer))
    assert all(model.tokenizer.token(id) for id in range(len(model.tokenizer)))


def test_what_is_unknown_pays_for_what_it_hides(folder: Any) -> None:
    for name, text in ("bert", "La 漢字 de"), ("llama", "La 漢 de"):
        encoded = audited(folder(name)).tokenizer.encode_batch([text])[0]
        assert encoded.ids.count(1) >= 1
        hidden = len("漢字".encode()) if name == "bert" else len("漢".encode())
        assert encoded.unknown_bytes == hidden + encoded.ids.count(1)


def test_a_text_that_spells_a_special_token_has_no_special_token(folder: Any) -> None:
    ids = audited(folder("gpt2")).tokenizer.encode("fin <|endoftext|> no")
    assert EOS not in ids
    assert BOS not in ids


def test_padding_and_what_stands_beside_a_text_change_none_of_its_figures(folder: Any) -> None:
    for name in ("gpt2", "bare", "bert"):
        model = audited(folder(name))
        long, short = (torch.tensor([BOS, *model.tokenizer.encode(text)]) for text in ("La casa de la ciudad", "La"))
        both = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
        with torch.no_grad():
            alone = model.network(short[None])[0]
            beside = model.network(both)[1, : len(short)]
        torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_a_masked_model_that_is_scored_as_a_causal_one_is_caught_by_causality(tmp_path: Path) -> None:
    found = minillm.audit(bert(tmp_path, is_decoder=False), test=texts()["test"], evaluator=QUICK)
    assert [name for name, verdict in verdicts(found).items() if verdict == "fault"] == ["causality"]


def test_an_honest_model_of_another_make_passes_with_its_training_text(folder: Any) -> None:
    found = minillm.audit(folder("llama"), texts()["test"], texts()["train"], texts()["val"], evaluator=QUICK)
    assert found["trustworthy"] is True
    assert set(found["splits"]) == {"train", "val", "test"}
    assert found["audit"]["plausibility"]["verdict"] == "weak"  # it was never trained


def test_a_network_that_counts_its_places_from_behind_the_padding_is_given_as_many_as_it_has(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForCausalLM

    named = byte_level("<s>", "<pad>", "</s>", bos_token="<s>", pad_token="<pad>", eos_token="</s>")
    config = RobertaConfig(vocab_size=len(named), is_decoder=True, pad_token_id=1, **SIZES)
    model = audited(RobertaForCausalLM(config), named)
    assert model.max_length == PLACES - 2


def test_the_end_of_a_text_can_be_left_out(folder: Any) -> None:
    with_end, without = (
        minillm.audit(TransformersNetwork(str(folder("llama")), end=end), test=["La ciudad."], evaluator=QUICK)
        for end in (True, False)
    )
    assert without["splits"]["test"]["tokens"] == with_end["splits"]["test"]["tokens"] - 1


class Own:
    """This project's network as somebody else would wrap it: with ids of its own."""

    max_length = MAX_LENGTH
    begin_id, end_id, unknown_id = 2, 3, 1
    network = staticmethod(lambda ids: honest()(ids))

    def encode(self, text: str) -> list[int]:
        return tokenizer().encode(text)

    def decode(self, ids: list[int]) -> str:
        return tokenizer().decode(ids)


def test_an_object_with_a_network_and_a_tokenizer_has_the_figures_of_what_it_wraps() -> None:
    own, wrapped = (
        minillm.audit(model, texts()["test"], texts()["train"], tokenizer=given, max_length=MAX_LENGTH, evaluator=QUICK)
        for model, given in ((honest(), tokenizer()), (Own(), None))
    )
    for split in ("train", "test"):
        for figure in ("loss", "accuracy", "perplexity"):
            assert wrapped["splits"][split][figure] == pytest.approx(own["splits"][split][figure], rel=1e-5)
    for name in ("unigram", "bigram"):
        expected = own["baselines"]["test"][name]["perplexity"]
        # Its [PAD] is a token like others.
        assert wrapped["baselines"]["test"][name]["perplexity"] == pytest.approx(expected, rel=0.02)
    assert wrapped["data"]["unk_rate"] == own["data"]["unk_rate"]
    assert verdicts(wrapped) == verdicts(own)


def test_the_training_text_passes_by_whole_and_its_figures_are_over_a_sample(tmp_path: Path) -> None:
    given = texts()
    lines = [json.dumps({"text": text}) for text in [*given["train"], given["test"][3]]]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    quick = replace(QUICK, max_tokens=3000, baseline_tokens=3000)
    model = audited(honest(), tokenizer(), MAX_LENGTH)
    found = minillm.audit(model, given["test"], tmp_path, evaluator=quick)
    assert found["data"]["articles"]["train"] == len(lines)
    assert found["data"]["bytes"]["train"] == sum(len(json.loads(line)["text"].encode()) for line in lines)
    assert found["data"]["samples"]["train"]["articles"] < found["data"]["articles"]["train"]
    assert found["data"]["samples"]["train"]["tokens"] <= 3000
    assert found["audit"]["contamination"]["verdict"] == "fault"  # found in what no figure is over


def test_a_sample_is_what_the_whole_text_would_be_bounded_to() -> None:
    from minillm.data.subset import smallest_hashes
    from minillm.evaluation.audit.texts import split_of

    model = audited(honest(), tokenizer(), MAX_LENGTH)
    whole = EncodedTexts(texts()["train"], tokenizer())
    chosen = smallest_hashes(whole, 2000)
    assert chosen is not None
    split = split_of(texts()["train"], "train", model, 2000)
    assert split.articles == len(whole) > len(split.documents)
    sample = split.bounded(2000)
    assert sorted(sample.texts) == sorted(texts()["train"][index] for index in chosen)
    np.testing.assert_array_equal(np.sort(sample.documents.page_ids), np.sort(whole.page_ids[chosen]))
