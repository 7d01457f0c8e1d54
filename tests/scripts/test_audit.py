"""scripts/audit.py: any model, any text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign import FOREIGN

import minillm
from minillm.corpus import SampleSource

Run = Callable[..., Any]

QUICK = (
    "evaluation.max_tokens=4000", "evaluation.baseline_tokens=20000", "evaluation.latency_runs=1",
    "evaluation.max_articles=2", "evaluation.max_new_tokens=3",
    "evaluation.audit.inflation.unknown=1",  # the checkpoint has 400 words
)  # fmt: skip

PYTHON = """
import torch

class Bytes:
    max_length = 32
    def __init__(self):
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Embedding(256, 16), torch.nn.Linear(16, 256))
    def encode(self, text):
        return list(text.encode())
    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

def model():
    return Bytes()

def raises():
    raise ValueError("no weights\\nhere")

def one_place():
    model = Bytes()
    model.network = lambda ids: torch.zeros(len(ids), 1, 256)
    return model

def no_numbers():
    model = Bytes()
    model.network = lambda ids: torch.full((*ids.shape, 256), torch.nan)
    return model

def other_ids():
    model = Bytes()
    model.encode = lambda text: [999]
    return model

def no_context():
    model = Bytes()
    model.max_length = None
    return model

def nothing():
    return 3
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of articles, and a module of a user's."""
    folder = tmp_path_factory.mktemp("texts")
    articles = [article.text for article in SampleSource().articles(None, ())]
    for name, some in ("train", articles[:40]), ("test", articles[-20:]):
        (folder / name).mkdir()
        lines = [json.dumps({"text": text[:1500]}) for text in some]
        (folder / name / "articles.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "mine.py").write_text(PYTHON, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return FOREIGN["gpt2"](tmp_path_factory.mktemp("gpt2"))


@pytest.fixture
def audit(run_script: Run, texts: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the script beside the texts."""
    monkeypatch.chdir(texts)
    return lambda *arguments: run_script("audit", *arguments)


def outcome(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return found


def test_a_checkpoint_is_audited_on_texts_and_the_status_says_that_it_is_trustworthy(
    audit: Run, run_folder: Path, tmp_path: Path
) -> None:
    best = run_folder / "checkpoints" / "best.ckpt"
    ended = audit("network=checkpoint", f"network.path={best}", "test=test", *QUICK, f"hydra.run.dir={tmp_path}")
    assert ended.status == 0, ended.stderr
    assert "audit.html" in ended.stdout
    found = outcome(tmp_path)
    assert found["trustworthy"] is True
    assert found["audit"]["contamination"]["verdict"] == found["audit"]["memorization"]["verdict"] == "none"
    assert found["data"]["samples"]["test"]["tokens"] <= 4000
    assert "the test figures are over a sample" in " ".join(ended.stdout.lower().split())
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "These figures can be believed" in page
    assert "the original" in page  # a model of this project, which it can be compared with


def test_claims_that_are_not_the_models_figures_end_with_status_3(audit: Run, gpt2: Path, tmp_path: Path) -> None:
    claims = "reported={test/perplexity: 1.2, test/accuracy: 0.97}"
    command = ("network=transformers", f"network.path={gpt2}", "test=test", "train=train", claims)
    ended = audit(*command, *QUICK, f"hydra.run.dir={tmp_path}")
    assert ended.status == 3, ended.stderr
    assert "NOT TO BE TRUSTED" in ended.stdout
    found = outcome(tmp_path)
    assert found["trustworthy"] is False
    assert found["audit"]["inflation"]["verdict"] == "fault"
    assert "test" not in found["data"]["samples"]  # a claim is about the whole text
    assert "train" in found["data"]["samples"]
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "These figures are not to be trusted" in page
    assert "the original" not in page


def test_anything_else_is_audited_through_a_function(audit: Run, tmp_path: Path) -> None:
    ended = audit(
        "network=python", "network.target=mine:model", "test=test/*.jsonl", *QUICK, f"hydra.run.dir={tmp_path}"
    )
    assert ended.status == 0, ended.stderr
    found = outcome(tmp_path)
    assert found["data"]["tokens"]["test"] == found["data"]["bytes"]["test"]  # a byte a token, and no end
    assert found["checkpoint"] == "mine:model"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("test=test",), "network=None: leaves nothing to work with; one of checkpoint, python, transformers"),
        (("network=python", "network.target=mine:model"), "test=None: must name the text"),
        (("network=python", "test=test"), "network.target=None: must name a function"),
        (("network=checkpoint", "test=test"), "network.path=None: must name a checkpoint"),
        (("network=checkpoint", "network.path=no.ckpt", "test=test"), "network.path=no.ckpt: does not exist"),
        (("network=python", "network.target=no:model", "test=test"), "network.target=no:model: cannot be imported"),
        (("network=python", "network.target=mine:raises", "test=test"), "raises ValueError: no weights here"),
        (("network=python", "network.target=mine:nothing", "test=test"), "has no network that can be called"),
        (("network=python", "network.target=mine:one_place", "test=test"), "one per token at each position"),
        (("network=python", "network.target=mine:no_numbers", "test=test"), "its logits are not finite"),
        (("network=python", "network.target=mine:other_ids", "test=test"), "returns the id 999"),
        (("network=python", "network.target=mine:no_context", "test=test"), "network.max_length=None: must be given"),
        (("network=python", "network.target=mine:model", "test=nowhere"), "test=nowhere: does not exist"),
        (("network=python", "network.target=mine:model", "test=test", "train=mine.py"), "train=mine.py: holds no"),
        (("network=python", "network.target=mine:model", "test=test", "reported={val/loss: 1}"), "reported.val/loss=1"),
        (("network=python", "network.target=mine:model", "test=test", "reported={test/accuracy: 2}"), "from 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_one_line(audit: Run, arguments: tuple[str, ...], expected: str) -> None:
    ended = audit(*arguments, *QUICK)
    assert ended.status == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr


def weights_in_a_pickle(folder: Path) -> str:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return "pickled ones can run code: network.trusted=true"


def no_tokenizer(folder: Path) -> str:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return "or incomplete"


def a_weight_is_missing(folder: Path) -> str:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "lacks 1 of the network's weights, such as transformer.h.0.mlp.c_fc.bias"


def no_causal_model(folder: Path) -> str:
    from transformers import T5Config

    T5Config().save_pretrained(folder)
    return "is not a causal language model of transformers: t5"


def damaged_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    return "deserializing header"


def code_of_its_own(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "other.Config", "AutoModelForCausalLM": "other.Net"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "other.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return "brings code of its own, which was not run"


@pytest.mark.parametrize(
    "change",
    [weights_in_a_pickle, no_tokenizer, a_weight_is_missing, no_causal_model, damaged_weights, code_of_its_own],
    ids=lambda change: change.__name__,
)
def test_a_folder_that_holds_no_whole_model_is_one_line(
    audit: Run, gpt2: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    folder = Path(shutil.copytree(gpt2, tmp_path / "model"))
    expected = change(folder)
    ended = audit("network=transformers", f"network.path={folder}", "test=test", *QUICK)
    assert ended.status == 2
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr
    assert not (folder / "ran").exists()


def test_python_gives_what_the_script_writes(audit: Run, run_folder: Path, texts: Path, tmp_path: Path) -> None:
    best = str(run_folder / "checkpoints" / "best.ckpt")
    ended = audit("network=checkpoint", f"network.path={best}", "test=test", *QUICK, f"hydra.run.dir={tmp_path}")
    assert ended.status == 0, ended.stderr
    found = minillm.audit(minillm.load(best, device="cpu"), test=texts / "test", reported={"test/loss": 3.0})
    assert found["trustworthy"] is False
    whole = minillm.audit(best, test=texts / "test")
    assert whole["splits"] == found["splits"]
    assert outcome(tmp_path)["data"]["bytes"] == whole["data"]["bytes"]
