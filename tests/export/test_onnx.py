import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from networks import FORMS, network, run_of
from torch import Tensor, nn

from minillm.corpus import SampleSource
from minillm.errors import OutsideError, SettingError
from minillm.export import TrainedRun, export
from minillm.export.onnx import Onnx, check_graph, write_graph
from minillm.language_model import LanguageModel
from minillm.models import MiniGPT
from minillm.tokenization import BPETokenizer

pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module", params=FORMS)
def exported(request: pytest.FixtureRequest, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizer = BPETokenizer()
    tokenizer.fit(texts, 400)
    run = run_of(request.param, tokenizer)
    return run.model, export(run, Onnx(), tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [article.text for article in SampleSource().articles(40, ())]


def test_graph_and_network_agree_on_real_text_in_batches_and_lengths_of_any_size(
    exported: tuple[LanguageModel, Path], texts: list[str]
) -> None:
    model, folder = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [put.name for put in session.get_inputs() + session.get_outputs()] == ["input_ids", "logits"]
    ids = np.array([model.tokenizer.encode(text)[:32] for text in texts])
    for rows, length in ((1, 1), (1, 32), (40, 31), (7, 2)):
        [logits] = session.run(None, {"input_ids": ids[:rows, :length]})
        with torch.inference_mode():
            ours = model.network(torch.from_numpy(ids[:rows, :length]))
        assert np.abs(logits - ours.numpy()).max() < 1e-4
        assert np.abs(ours.numpy()).max() > 1


def test_folder_is_enough_to_write_text_with(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    facts = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = "En el año 1492,"
    ids = [facts["bos_token_id"], *tokenizer.encode(prompt, add_special_tokens=False).ids]
    while len(ids) < facts["max_length"]:
        [logits] = session.run(None, {"input_ids": np.array([ids])})
        logits[0, -1, :3] = -np.inf  # [PAD], [UNK] and [BOS] are not written
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == facts["eos_token_id"]:
            break
    written = len(ids) - 1 - len(tokenizer.encode(prompt, add_special_tokens=False).ids)
    assert tokenizer.decode(ids[1:]) == model.generate(prompt, max_new_tokens=written, temperature=0)


def test_graph_says_nothing_of_the_machine_that_it_was_made_on(exported: tuple[LanguageModel, Path]) -> None:
    _, folder = exported
    assert str(Path(__file__).parents[2]).encode() not in (folder / "model.onnx").read_bytes()


def test_what_int8_costs_is_measured_on_the_test_split(
    run_script: Callable[..., Any], run_folder: Path, tmp_path: Path, trained: LanguageModel
) -> None:
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    ended = run_script("export", f"ckpt={checkpoint}", "format=onnx", "format.int8=true", f"path={tmp_path / 'model'}")
    assert ended.status == 0, ended.stderr
    facts = json.loads((tmp_path / "model" / "onnx.json").read_text(encoding="utf-8"))["int8"]
    texts = list(TrainedRun.of(str(checkpoint)).data().corpus.articles("test")["text"])
    assert facts["measured_on"] == f"{len(texts)} articles, all of the run's test split"
    assert facts["bits_per_byte_float32"] == pytest.approx(trained.score(texts)["bits_per_byte"], abs=1e-4)
    assert facts["cost_in_bits_per_byte"] == facts["bits_per_byte_int8"] - facts["bits_per_byte_float32"]
    assert 0 < abs(facts["cost_in_bits_per_byte"]) < 0.01
    sizes = {name: (tmp_path / "model" / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")}
    assert sizes["model_int8.onnx"] < sizes["model.onnx"] / 2


def test_bounded_measurement_says_so(run_folder: Path, tmp_path: Path) -> None:
    run = TrainedRun.of(str(run_folder / "checkpoints" / "best.ckpt"))
    folder = export(run, Onnx(int8=True, max_tokens=1), tmp_path / "model")
    facts = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))["int8"]
    assert facts["measured_on"] == "1 article, those with the smallest hashes of the run's test split"


def test_int8_without_the_test_split_is_refused(texts: list[str], tmp_path: Path) -> None:
    tokenizer = BPETokenizer()
    tokenizer.fit(texts, 400)
    with pytest.raises(SettingError, match=r"format.int8=true: needs the run's test split, which is not at hand"):
        export(run_of("gpt2", tokenizer), Onnx(int8=True), tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Frozen(nn.Module):
    """A network of one's own whose steps depend on what a tensor holds."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(int(ids.max().item()), ids.size(0)) if bool(ids.sum() > 3) else ids.float()


def test_network_that_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"format=onnx: PyTorch cannot make a graph of Frozen: [^\n]+$"):
        write_graph(Frozen(), 50, 8, tmp_path / "model.onnx")


def test_graph_of_other_weights_is_noticed(tmp_path: Path) -> None:
    made = network("gpt2", 50)
    write_graph(made, 50, 32, tmp_path / "model.onnx")
    assert check_graph(made, 50, 32, tmp_path / "model.onnx") < 1e-4
    next(made.parameters()).data[7] += 0.01
    with pytest.raises(OutsideError, match="logits differ by"):
        check_graph(made, 50, 32, tmp_path / "model.onnx")


def test_shortest_contexts_are_exported_or_refused(tmp_path: Path) -> None:
    for length in 1, 2, 3:
        made = MiniGPT(50, max_length=length, embedding_dim=8, num_layers=1, num_heads=2).eval()
        if length < 3:
            with pytest.raises(SettingError, match=f"a context of {length}"):
                write_graph(made, 50, length, tmp_path / "model.onnx")
    write_graph(made, 50, 3, tmp_path / "model.onnx")
    assert check_graph(made, 50, 3, tmp_path / "model.onnx") < 1e-4
