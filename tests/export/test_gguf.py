from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import FORMS, run_of

from minillm.corpus import SampleSource
from minillm.errors import OutsideError, SettingError
from minillm.export import export
from minillm.export.gguf import Gguf, check, vocabulary_of
from minillm.language_model import LanguageModel
from minillm.models import MiniGPT
from minillm.models.unmasked import UnmaskedGPT
from minillm.tokenization import BPETokenizer, WordTokenizer

gguf = pytest.importorskip("gguf", reason="the extra export is not installed")
PROMPTS = ("En el año 1492,", "La ciudad", "España es un", "¿Qué?", "  dos espacios", "el 12 de octubre", "¡Ñandú!\n")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [article.text for article in SampleSource().articles(60, ())]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> BPETokenizer:
    tokenizer = BPETokenizer()
    tokenizer.fit(texts, 400)
    return tokenizer


@pytest.fixture(scope="module", params=FORMS)
def exported(request: pytest.FixtureRequest, tokenizer: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = run_of(request.param, tokenizer)
    return run.model, export(run, Gguf(), tmp_path_factory.mktemp("gguf") / "model") / "model.gguf"


def test_file_names_the_tokens_in_order_and_begins_texts_with_bos(exported: tuple[LanguageModel, Path]) -> None:
    model, path = exported
    fields = gguf.GGUFReader(path).fields
    held = {name: field.contents() for name, field in fields.items()}
    assert held["tokenizer.ggml.tokens"] == [model.tokenizer.token(number) for number in range(len(model.tokenizer))]
    assert held["tokenizer.ggml.pre"] == "gpt-2"
    assert [held[f"tokenizer.ggml.{name}_token_id"] for name in ("padding", "unknown", "bos", "eos")] == [0, 1, 2, 3]
    assert held["tokenizer.ggml.add_bos_token"] is True
    assert held[f"{held['general.architecture']}.context_length"] == model.max_length


def test_weights_are_the_network_s_bit_for_bit(exported: tuple[LanguageModel, Path]) -> None:
    model, path = exported
    held = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    ours = [parameter.detach().numpy() for parameter in model.network.parameters()]
    scaled = model.network.get_parameter("embedding.weight").detach().numpy() * np.float32(32**0.5)
    for weights in held.values():
        assert any(np.array_equal(weights, parameter) for parameter in ours) or (
            np.array_equal(weights, scaled) or np.array_equal(weights, model.network.get_buffer("positions").numpy())
        )
    assert len(held) == len(ours) + isinstance(model.network, MiniGPT)  # whose positions are a formula, here a table


def test_llama_cpp_reads_the_same_ids_and_writes_the_same_text(
    exported: tuple[LanguageModel, Path], texts: list[str]
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: it builds for minutes")
    model, path = exported
    llama = llama_cpp.Llama(
        str(path), n_ctx=32, verbose=False, logits_all=True, type_k=0, type_v=0, n_threads=1, seed=0
    )
    for text in texts:
        assert llama.tokenize(text.encode(), add_bos=True, special=False) == [2, *model.tokenizer.encode(text)]
    for prompt in PROMPTS:
        ids = [2, *model.tokenizer.encode(prompt)]
        llama.reset()
        written: list[int] = []
        for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
            if token == 3 or len(written) == 12:
                break
            written.append(token)
        ours = model.generate(prompt, max_new_tokens=12, temperature=0)
        assert model.tokenizer.decode([*ids, *written]) == ours


def test_words_are_refused(texts: list[str], tmp_path: Path) -> None:
    words = WordTokenizer()
    words.fit(texts, 400)
    with pytest.raises(SettingError, match=r"format=gguf: needs tokenizer=bpe: llama.cpp has no vocabulary of whole"):
        export(run_of("gpt2", words), Gguf(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"digits": True}, {"names": 5}])
def test_texts_parted_otherwise_are_refused(option: dict[str, Any], texts: list[str]) -> None:
    tokenizer = BPETokenizer(**option)
    tokenizer.fit(texts, 400)
    with pytest.raises(SettingError, match=rf"cannot have tokenizer.{next(iter(option))}"):
        vocabulary_of(tokenizer)


def test_network_without_a_graph_in_llama_cpp_is_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    run = run_of("minigpt", tokenizer)
    run.model.network = UnmaskedGPT(len(tokenizer), embedding_dim=8)
    with pytest.raises(SettingError, match="UnmaskedGPT: has no form that other programs know"):
        export(run, Gguf(), tmp_path / "model")


def test_file_that_reads_otherwise_is_noticed(exported: tuple[LanguageModel, Path]) -> None:
    model, path = exported
    vocabulary = vocabulary_of(model.tokenizer)
    held = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    check(path, held, vocabulary)
    held["token_embd.weight"][7, 3] = np.nextafter(held["token_embd.weight"][7, 3], np.float32(9))
    with pytest.raises(OutsideError, match=r"such as token_embd.weight"):
        check(path, held, vocabulary)
