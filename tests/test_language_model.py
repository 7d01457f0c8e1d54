import csv
import io
import json
import math
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import minillm
from minillm.corpus import SampleSource
from minillm.data import TextDataModule
from minillm.errors import SettingError
from minillm.generation import Sampling
from minillm.language_model import LanguageModel
from minillm.models import MiniGPT
from minillm.tokenization import BOS, EOS, UNK, BPETokenizer

PROMPTS = ["La ciudad", "En el año 1492,", "«¿Qué", "El río nace en"]
TEXTS = [article.text for article in SampleSource().articles(63, ())][60:]


@pytest.fixture(scope="module")
def bytewise() -> LanguageModel:
    """A BPE model of random weights: it writes bytes that are often no characters."""
    tokenizer = BPETokenizer()
    tokenizer.fit(TEXTS, 300)
    torch.manual_seed(0)
    return LanguageModel(MiniGPT(len(tokenizer), max_length=32, embedding_dim=32), tokenizer)


def test_a_text_begins_with_its_prompt_and_goes_on(trained: LanguageModel) -> None:
    for prompt in PROMPTS:
        text = trained.generate(prompt, max_new_tokens=20, seed=1)
        assert text.startswith(prompt)
        assert len(text) > len(prompt) + 10
        assert trained.generate(prompt, max_new_tokens=0) == prompt


def test_a_prompt_may_end_in_a_space_and_hold_unknown_words(trained: LanguageModel) -> None:
    assert trained.generate("La ciudad ", 10, seed=1) == trained.generate("La ciudad", 10, seed=1)
    assert trained.generate("El xilófono zumbó", 10, seed=1).startswith("El xilófono zumbó ")


def test_the_words_of_a_prompt_that_the_model_does_not_know_are_named(
    trained: LanguageModel, bytewise: LanguageModel
) -> None:
    prompt = "La Zzyx de la qwfp, la Zzyx"
    assert trained.unknown_words(prompt) == ["Zzyx", "qwfp"]
    notice = trained.notice(prompt)
    assert notice is not None
    assert "the model does not know 'Zzyx', 'qwfp' and reads [UNK] in place of each" in notice
    logits = trained.network(torch.tensor([[BOS, *trained.tokenizer.encode(prompt)]]))[0]
    likeliest = int((logits.argmax(-1) == UNK).sum())
    assert likeliest > 0
    assert f"at {likeliest} of the prompt's {len(logits)} positions; it is never generated" in notice
    assert "[UNK]" not in trained.generate(prompt, seed=0).removeprefix(prompt)
    assert str(trained.notice(" ".join(f"Zz{n}yx" for n in range(20)))).count("yx'") == 10
    assert bytewise.unknown_words(prompt) == []
    assert bytewise.notice(prompt) is None


def test_what_is_generated_is_text_without_special_tokens(trained: LanguageModel) -> None:
    text = trained.generate("La", 300, temperature=1.5, seed=3)
    for token in "[PAD]", "[UNK]", "[BOS]", "[EOS]":
        assert token not in text


def test_a_seed_gives_the_same_text_again(trained: LanguageModel) -> None:
    assert trained.generate("La ciudad", seed=4) == trained.generate("La ciudad", seed=4)
    assert trained.generate("La ciudad", seed=4) != trained.generate("La ciudad", seed=5)
    assert trained.generate("La ciudad", temperature=0) == trained.generate("La ciudad", temperature=0, seed=9)


def test_sampling_settings_reach_the_draws(trained: LanguageModel) -> None:
    greedy = trained.generate("La ciudad", temperature=0)
    assert trained.generate("La ciudad", top_k=1, seed=1) == greedy
    assert trained.generate("La ciudad", top_p=1e-6, seed=1) == greedy
    assert trained.generate("La ciudad", temperature=0, repetition_penalty=5) != greedy


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_streamed_pieces_join_to_the_whole_text(trained: LanguageModel, bytewise: LanguageModel, seed: int) -> None:
    for model in trained, bytewise:
        pieces = list(model.stream("La ciudad de Ávila", 50, Sampling(), seed))
        assert "".join(pieces) == model.generate("La ciudad de Ávila", 50, seed=seed)
        assert pieces[0] == "La ciudad de Ávila"
        assert len(pieces) > 10


def test_a_character_of_several_bytes_is_streamed_whole() -> None:
    text = "áéíóú «ñ» €𝄞 " * 30
    tokenizer = BPETokenizer()
    tokenizer.fit(["abc"], 260)  # single bytes: each of these letters takes two to four steps
    ids = tokenizer.encode(text)

    class Recital(torch.nn.Module):
        """Writes the text, whatever came before."""

        max_length = 2000

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.place = 0
            self.like = MiniGPT(260, embedding_dim=2, num_layers=1, num_heads=1)

        def new_cache(self, *sizes: int) -> Any:
            return self.like.new_cache(*sizes)

        def hidden(self, tokens: torch.Tensor, documents: Any = None, cache: Any = None) -> torch.Tensor:
            cache.length += tokens.size(1)
            return tokens[:, :, None].float()

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*hidden.shape[:-1], 260)
            logits[..., (*ids, EOS)[self.place]] = 9
            self.place += 1
            return logits

    model = LanguageModel(Recital(), tokenizer)
    pieces = list(model.stream("a", 2000, Sampling(temperature=0)))
    assert "".join(pieces) == "a" + text
    assert set("".join(pieces[1:])) == set(text)
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert {piece for piece in pieces[1:] if piece} == set(text)


def test_several_prompts_at_once_are_continued_as_each_alone(trained: LanguageModel) -> None:
    together = trained.continue_batch(PROMPTS, 80, Sampling(temperature=0))
    assert [prompt + text for prompt, text in zip(PROMPTS, together, strict=True)] == [
        trained.generate(prompt, 80, temperature=0) for prompt in PROMPTS
    ]
    assert trained.continue_batch([], 5) == []


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9, "top_k": 50}, {"top_p": 0.9}])
def test_a_batch_gives_each_prompt_what_generate_gives_it(trained: LanguageModel, settings: dict[str, Any]) -> None:
    prompts = [*PROMPTS, "La ciudad ", PROMPTS[0]]
    texts = trained.generate_batch(prompts, 100, seed=7, repetition_penalty=1.2, **settings)
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        assert text == trained.generate(prompt, 100, seed=7 + number, repetition_penalty=1.2, **settings)
        assert text.startswith(prompt.rstrip())
    assert (texts[0] == texts[-1]) == (settings["temperature"] == 0 if "temperature" in settings else False)
    assert trained.generate_batch([]) == []


def test_a_batch_with_one_prompt_that_cannot_be_used_is_refused(trained: LanguageModel) -> None:
    with pytest.raises(SettingError, match=r"^prompt='': is empty"):
        trained.generate_batch(["La ciudad", ""])
    with pytest.raises(SettingError, match="the model's context only 64"):
        trained.generate_batch(["La ciudad", "La ciudad " * 40])
    for setting in {"max_new_tokens": -1}, {"temperature": -1}, {"top_k": 0}, {"top_p": 2}, {"seed": 2**64}:
        with pytest.raises(SettingError, match=next(iter(setting))):
            trained.generate_batch(["La"], **setting)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt='': is empty"),
        ("   ", "prompt='': is empty"),
        ("La ciudad " * 40, r"prompt='La ciudad La.*\.\.\.': has 81 tokens with \[BOS\], the model's context only 64"),
        ("roto \udcff", r"prompt='roto \\udcff': is not Unicode"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_shown_with_what_is_wrong(
    trained: LanguageModel, prompt: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        trained.generate(prompt)


def test_settings_out_of_range_are_named(trained: LanguageModel) -> None:
    for setting in {"max_new_tokens": -1}, {"temperature": -1}, {"top_k": 0}, {"top_p": 2}, {"repetition_penalty": 0}:
        with pytest.raises(SettingError, match=next(iter(setting))):
            trained.generate("La", **setting)


def scored_by_hand(model: LanguageModel, texts: list[str]) -> dict[str, float]:
    """Return the definitions' figures in float64, a window at a time."""
    network = model.network
    nats, tokens, unknown = 0.0, 0, 0
    for text in texts:
        ids = [BOS, *model.tokenizer.encode(text), EOS]
        for start in range(0, len(ids) - 1, model.max_length):
            window = ids[start : start + model.max_length + 1]
            with torch.no_grad():
                logits = network(torch.tensor([window[:-1]]))[0].double()
            nats -= sum(logits.log_softmax(dim=-1)[place, target].item() for place, target in enumerate(window[1:]))
            tokens += len(window) - 1
        [encoded] = model.tokenizer.encode_batch([text])
        assert encoded.ids == ids[1:-1]
        assert (encoded.unknown_bytes > 0) == (UNK in ids)
        unknown += encoded.unknown_bytes
    size = sum(len(text.encode()) for text in texts)
    return {
        "nats": nats,
        "tokens": tokens,
        "bytes": size,
        "bits_per_byte": (nats / math.log(2) + 8 * unknown) / size,
        "perplexity": math.exp(nats / tokens),
    }


def test_a_score_is_that_of_the_definitions(trained: LanguageModel, bytewise: LanguageModel) -> None:
    for model in trained, bytewise:
        expected = scored_by_hand(model, TEXTS)
        assert model.score(TEXTS) == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}
        assert model.score(TEXTS, batch_size=1) == pytest.approx(expected, rel=1e-6)
        assert model.score(TEXTS[0]) == pytest.approx(scored_by_hand(model, TEXTS[:1]), rel=1e-6)


def test_scoring_nothing_is_an_error(trained: LanguageModel) -> None:
    with pytest.raises(ValueError, match="no text"):
        trained.score([])


def test_the_figures_of_the_training_run_are_the_scores_of_its_splits(
    trained: LanguageModel, make_data: Callable[..., TextDataModule], run_folder: Path
) -> None:
    data = make_data()
    with (run_folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for split in "val", "test":
        score = trained.score(list(data.corpus.articles(split)["text"]))
        rounded = {
            f"{split}/loss": score["nats"] / score["tokens"],
            f"{split}/perplexity": score["perplexity"],
            f"{split}/bits_per_byte": score["bits_per_byte"],
        }
        logged = [row for row in rows if row[f"{split}/loss"]]
        best = min(logged, key=lambda row: float(row[f"{split}/loss"]))
        for name, value in rounded.items():
            assert float(best[name]) == pytest.approx(value, rel=1e-5)
            if split == "val":
                assert trained.metrics[name] == pytest.approx(value, rel=1e-5)


def test_a_checkpoint_is_complete_and_holds_plain_values(run_folder: Path, trained: LanguageModel) -> None:
    for name in "best", "last":
        saved = torch.load(run_folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["config"]["model"]["embedding_dim"] == 32
        assert json.loads(json.dumps(saved["config"])) == saved["config"]
        assert saved["tokenizer"] == trained.tokenizer.to_json()
        assert saved["metrics"]["val/loss"] > 0
        assert all(type(value) is float for value in saved["metrics"].values())
        assert saved["optimizer_states"][0]["state"]
        assert saved["lr_schedulers"]
        assert saved["epoch"] == 1
        assert saved["global_step"] > 0
    assert trained.config["seed"] == 0
    assert not trained.network.training


def damaged(whole: bytes) -> dict[str, bytes]:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("executed",)

    def saved(content: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    flipped = bytearray(whole)
    for place in range(1000, len(whole), 5000):
        flipped[place] ^= 0xFF
    return {
        "empty": b"",
        "text": "Érase una vez un modelo".encode(),
        "zeros": bytes(5000),
        "flipped": bytes(flipped),
        **{f"cut to {size}": whole[:size] for size in (10, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1)},
        "pickle": pickle.dumps({"state_dict": {}, "config": {}, "tokenizer": "", "metrics": {}}, protocol=2),
        "evil pickle": pickle.dumps({"state_dict": Evil()}, protocol=2),
        "evil": saved({"state_dict": Evil(), "config": {}, "tokenizer": "", "metrics": {}}),
        "tensor": saved(torch.zeros(3)),
        "list": saved([1, 2]),
        "foreign": saved({"state_dict": {}, "epoch": 3}),
        "of other types": saved({"state_dict": [], "config": None, "tokenizer": 5, "metrics": {}}),
        "without content": saved({"state_dict": {}, "config": {}, "tokenizer": "{}", "metrics": {}}),
    }


def test_a_file_that_is_no_whole_checkpoint_is_one_line_and_nothing_in_it_is_run(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in damaged((run_folder / "checkpoints" / "best.ckpt").read_bytes()).items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        with pytest.raises(SettingError, match=r"^ckpt=.*\.ckpt: ") as caught:
            minillm.load(path)
        assert "\n" not in str(caught.value), name
        assert not Path("executed").exists(), name


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"ckpt=.*none.ckpt: does not exist; give a path"):
        minillm.load(tmp_path / "none.ckpt")
    with pytest.raises(SettingError, match=r"ckpt=.*: is a folder without a config.json"):
        minillm.load(tmp_path)


@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "os.system", "command": "touch executed"},
        {"_target_": "subprocess.Popen", "args": "touch executed"},
        {"_target_": "no.such.thing"},
        {"_target_": "torch.nn.Linear"},
        {"_target_": "minillm.models.MiniGPT", "num_heads": 3},
        {"_target_": "minillm.models.MiniGPT", "unheard_of": 3},
        {"_target_": "minillm.models.MiniGPT", "embedding_dim": 64},
        {"_target_": "evil_on_import.Net"},
        {"_target_": "evil_on_import"},
        {"_target_": "evil_on_import:Net"},
        {"_target_": "minillm.models.minigpt.torch.hub.load", "repo_or_dir": ".", "source": "local", "model": "evil"},
        {"_target_": "minillm.models.minigpt.math.os.mkdir", "path": "executed"},
        {"_target_": "minillm.models.minigpt.nn.Embedding", "embedding_dim": 8},
        {"_target_": "minillm.models.KeyValueCache", "num_layers": 2**40, "shape": [1]},
        {"_target_": ["minillm.models.MiniGPT"]},
        {"_target_": "minillm.models.MiniGPT", "dropout": {"_target_": "evil_on_import.Net"}},
        {"_target_": "minillm.models.MiniGPT", "dropout": {"residual": {"_target_": "os.mkdir", "path": "executed"}}},
        {"_target_": "minillm.models.MiniGPT", "num_layers": 10**8},
        {"_target_": "minillm.models.MiniGPT", "num_layers": 1000, "embedding_dim": 2**14},
        {"_target_": "minillm.models.MiniGPT", "embedding_dim": 2**20, "num_heads": 1},
        {"_target_": "minillm.models.MiniGPT", "max_length": 10**12},
        {"_target_": "minillm.models.MiniGPT", "embedding_dim": -4},
        {"_target_": "minillm.models.MiniGPT", 5: "five", "embedding_dim": [32]},
        {"_target_": "minillm.models.MiniGPTModern", "num_heads": 10**12, "head_dim": 2, "num_kv_heads": 7},
        {"_target_": "minillm.models.GPT2", "max_length": 10**12},
        {5: "five"},
        {},
        [],
        None,
        "minillm.models.MiniGPT",
    ],
)
def test_a_checkpoint_can_name_a_network_and_nothing_else(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "evil_on_import.py").write_text("open('executed', 'w').close()\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    saved = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    saved["config"]["model"] = model
    torch.save(saved, "changed.ckpt")
    with pytest.raises(SettingError, match=r"^ckpt=changed.ckpt: does not fit together: ") as caught:
        minillm.load("changed.ckpt")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "changed.ckpt", tmp_path / "path"]
    assert not (tmp_path / "path" / "__pycache__").exists()


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {5: torch.zeros(2)},
        {"network.head.weight": "no tensor"},
        {"network.head.weight": torch.zeros(1).expand(10**6, 10**6)},
        {"network.head.weight": torch.zeros(3, 3)},
        {"network.head.weight": None, "network.unheard_of": torch.zeros(2)},
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(
    run_folder: Path, tmp_path: Path, weights: dict[Any, Any]
) -> None:
    saved = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    saved["state_dict"] = {**saved["state_dict"], **weights} if weights else {}
    torch.save(saved, tmp_path / "changed.ckpt")
    with pytest.raises(SettingError, match=r"^ckpt=.*changed.ckpt: does not fit together: ") as caught:
        minillm.load(tmp_path / "changed.ckpt")
    assert "\n" not in str(caught.value)


OWN = """
import torch
from minillm.models import MiniGPT

class Net(MiniGPT):
    pass
"""


def test_a_network_of_ones_own_is_trained_and_loaded_by_whoever_says_its_name(
    train: Callable[..., Any], run_script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_on_path.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    ended = train("model._target_=mine_on_path.Net", "hydra.run.dir=run", "evaluation=none")
    assert ended.status == 0, ended.stderr
    best = "run/checkpoints/best.ckpt"
    del sys.modules["mine_on_path"]
    with pytest.raises(SettingError, match=r"if you trust its author: trusted=\[mine_on_path.Net\]"):
        minillm.load(best)
    assert "mine_on_path" not in sys.modules
    assert type(minillm.load(best, trusted=["mine_on_path.Net"]).network).__name__ == "Net"
    refused = run_script("generate", f"ckpt={best}", "max_new_tokens=2")
    assert refused.status == 2
    assert refused.stderr.count("\n") == 1
    ended = run_script("generate", f"ckpt={best}", "max_new_tokens=2", "trusted=[mine_on_path.Net]")
    assert ended.status == 0, ended.stderr
