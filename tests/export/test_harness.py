import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from transformers import AutoTokenizer

from minillm.export import TrainedRun, export
from minillm.export.harness import Harness, rolling_windows
from minillm.language_model import LanguageModel


@pytest.fixture(scope="module")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def task(checkpoint: Path, run_script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness") / "task"
    ended = run_script("export", f"ckpt={checkpoint}", "format=harness", f"path={folder}")
    assert ended.status == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def articles(task: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task / "test.jsonl").read_text(encoding="utf-8").splitlines()]


def test_task_holds_the_whole_test_split_with_its_attribution(articles: list[dict[str, Any]], checkpoint: Path) -> None:
    split = TrainedRun.of(str(checkpoint)).data().corpus.articles("test")
    assert [article["text"] for article in articles] == list(split["text"])
    assert [article["url"] for article in articles] == list(split["url"])
    assert all(article["licence"] for article in articles)


def test_expected_figures_are_those_of_score_and_of_each_token_once(
    task: Path, articles: list[dict[str, Any]], trained: LanguageModel
) -> None:
    """The harness's figure is worked out here token by token, from the definition of its windows."""
    figures = json.loads((task / "expected.json").read_text(encoding="utf-8"))["bits_per_byte"]
    texts = [article["text"] for article in articles]
    assert figures["score"] == pytest.approx(trained.score(texts)["bits_per_byte"], abs=1e-6)
    nats = 0.0
    for text in texts:
        tokens = [2, *trained.tokenizer.encode(text), 3]
        predicted = []
        for start, first, end in rolling_windows(len(tokens) - 1, trained.max_length):
            assert first - start <= trained.max_length >= end - 1 - start
            with torch.inference_mode():
                logits = trained.network(torch.tensor([tokens[start : end - 1]]))[0, first - start - 1 :]
            nats += F.cross_entropy(logits.double(), torch.tensor(tokens[first:end]), reduction="sum").item()
            predicted += tokens[first:end]
        assert predicted == tokens[1:]
    hidden = sum(encoded.unknown_bytes for encoded in trained.tokenizer.encode_batch(texts))
    total = sum(len(text.encode()) for text in texts)
    assert figures["harness"] == pytest.approx((nats / np.log(2) + 8 * hidden) / total, abs=1e-5)
    assert hidden > 0
    assert figures["difference"] == figures["harness"] - figures["score"] != 0


def test_tokenizer_of_the_task_ends_a_text_and_does_not_begin_it(
    task: Path, articles: list[dict[str, Any]], trained: LanguageModel
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(task / "tokenizer")
    for text in [*(article["text"] for article in articles), "dice [EOS] y [BOS]"]:
        assert tokenizer.encode(text) == [*trained.tokenizer.encode(text), 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3)


def test_task_charges_unknown_words_as_score_does(task: Path) -> None:
    functions: dict[str, Any] = {"__file__": str(task / "utils.py")}
    code = (task / "utils.py").read_text(encoding="utf-8").replace("import datasets", "")
    exec(compile(code, "utils.py", "exec"), functions)
    [(loglikelihood, size)] = functions["process_results"]({"text": "año", "unknown_bytes": 5}, (-10.0,)).values()
    assert (loglikelihood, size) == (pytest.approx(-10 - 40 * np.log(2)), 4)


def test_bounded_task_has_fewer_articles_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    folder = export(TrainedRun.of(str(checkpoint)), Harness(max_tokens=1), tmp_path / "task")
    assert len((folder / "test.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "smallest hashes" in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["measured_on"]


def test_windows_are_the_harness_s_own(task: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is not installed")
    for length in range(1, 30):
        tokens = list(range(1, length + 1))
        for context in (1, 2, 7, 40):
            theirs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(tokens, 0, context, 1))
            read = [([*before, *after][:-1], after) for before, after in theirs]
            ours = [
                (list(range(start, end - 1)), list(range(first, end)))
                for start, first, end in rolling_windows(length, context)
            ]
            assert read == ours


def test_harness_prints_the_expected_figure(task: Path, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from minillm.export.transformers import Transformers

    export(TrainedRun.of(str(checkpoint)), Transformers(), tmp_path / "model")
    config = yaml.safe_load((task / "minillm_test.yaml").read_text(encoding="utf-8").replace("!function ", ""))
    expected = json.loads((task / "expected.json").read_text(encoding="utf-8"))
    arguments = f"pretrained={tmp_path / 'model'},tokenizer=tokenizer,dtype=float32,max_length={expected['max_length']}"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", config["task"]]
    options = ["--include_path", ".", "--device", "cpu", "--batch_size", "16", "--output_path", str(tmp_path / "out")]
    subprocess.run([*command, *options], cwd=task, check=True, capture_output=True)
    [results] = (tmp_path / "out").rglob("results*.json")
    figure = json.loads(results.read_text(encoding="utf-8"))["results"][config["task"]]["bits_per_byte,none"]
    assert figure == pytest.approx(expected["bits_per_byte"]["harness"], abs=1e-4)
