import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import minillm
from minillm.corpus import SampleSource
from minillm.errors import SettingError
from minillm.export import TrainedRun, export
from minillm.export.transformers import Transformers, write_model
from minillm.language_model import LanguageModel
from minillm.models import GPT2, MiniGPT, MiniGPTModern
from minillm.models.unmasked import UnmaskedGPT
from minillm.tokenization import BOS, BPETokenizer, Tokenizer, WordTokenizer

transformers = pytest.importorskip("transformers", reason="the extra `export` is not installed")
ARTICLES = [article.text for article in SampleSource().articles(479, ())]
# 40 and 48: sqrt(dim) is no power of two, so that a division may not give back what was multiplied.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "minigpt": lambda size: MiniGPT(size, max_length=48, embedding_dim=40, num_heads=4),
    "gpt2": lambda size: GPT2(size, max_length=48, embedding_dim=48, num_heads=4),
    "modern": lambda size: MiniGPTModern(size, max_length=48, embedding_dim=32, num_kv_heads=2),
    "modern tied": lambda size: MiniGPTModern(size, max_length=48, embedding_dim=32, tie_head=True),
}
TARGETS = {
    "minigpt": {"_target_": "minillm.models.MiniGPT", "max_length": 48, "embedding_dim": 40, "num_heads": 4},
    "gpt2": {"_target_": "minillm.models.GPT2", "max_length": 48, "embedding_dim": 48, "num_heads": 4},
    "modern": {"_target_": "minillm.models.MiniGPTModern", "max_length": 48, "embedding_dim": 32, "num_kv_heads": 2},
    "modern tied": {
        "_target_": "minillm.models.MiniGPTModern",
        "max_length": 48,
        "embedding_dim": 32,
        "tie_head": True,
    },
}


def fitted(tokenizer: Tokenizer, size: int = 700) -> Tokenizer:
    tokenizer.fit(ARTICLES[:120], size)
    return tokenizer


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return fitted(BPETokenizer())


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(
    request: pytest.FixtureRequest, bpe: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, Path]:
    """A network in which every weight matters, and its folder."""
    torch.manual_seed(0)
    network = NETWORKS[request.param](len(bpe))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    model = LanguageModel(network, bpe, {"model": TARGETS[request.param]})
    folder = tmp_path_factory.mktemp("exported")
    write_model(model, folder)
    return model, folder


def test_transformers_computes_the_same_and_writes_the_same(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ARTICLES[:60]:
        ids = tokenizer(text, return_tensors="pt", truncation=True).input_ids
        with torch.no_grad():
            torch.testing.assert_close(theirs(ids).logits, model.network(ids), rtol=0, atol=1e-4)
    prompts = [" ".join(text.split()[:4]) for text in ARTICLES[:100]]
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = theirs.generate(
            ids, max_new_tokens=12, do_sample=False, temperature=None, top_p=None, bad_words_ids=[[0], [1], [BOS]]
        )
        ours = model.generate(prompt, 12, temperature=0)
        assert tokenizer.decode(written[0], skip_special_tokens=True) == ours


def test_a_folder_is_loaded_to_the_bit_and_written_to_the_bit(
    exported: tuple[LanguageModel, Path], tmp_path: Path
) -> None:
    model, folder = exported
    back = minillm.load(folder, device="cpu")
    assert type(back.network) is type(model.network)
    expected, state = model.network.state_dict(), back.network.state_dict()
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[name], weight) for name, weight in state.items())
    assert back.tokenizer.to_json() == model.tokenizer.to_json()
    write_model(back, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }


@pytest.mark.parametrize("network", ["minigpt", "gpt2"])
def test_without_its_own_file_a_folder_is_what_transformers_sees(network: str, bpe: Tokenizer, tmp_path: Path) -> None:
    model = LanguageModel(NETWORKS[network](len(bpe)), bpe, {"model": TARGETS[network]})
    write_model(model, tmp_path)
    (tmp_path / "minillm.json").unlink()
    back = minillm.load(tmp_path, device="cpu")
    assert isinstance(back.network, GPT2)
    ids = torch.arange(4, 40)[None]
    torch.testing.assert_close(back.network(ids), model.network(ids))
    assert back.tokenizer.to_json() == bpe.to_json()


@pytest.mark.parametrize(
    "tokenizer",
    [WordTokenizer(), WordTokenizer(digits=True, names=40), BPETokenizer(), BPETokenizer(digits=True, names=20)],
    ids=["word", "word, digits and names", "bpe", "bpe, digits and names"],
)
def test_every_article_has_the_same_ids_and_the_same_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    fitted(tokenizer)
    write_model(LanguageModel(MiniGPT(len(tokenizer), embedding_dim=4, num_layers=1, num_heads=1), tokenizer), tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*ARTICLES, "dice [EOS] y [PAD]", "", "  ", "Ω≈ç√ 🙂 ﷽"]:
        ids = theirs(text, verbose=False).input_ids
        assert ids == [BOS, *tokenizer.encode(text)]
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_a_network_without_a_known_form_is_refused_and_nothing_is_written(bpe: Tokenizer, tmp_path: Path) -> None:
    run = TrainedRun(LanguageModel(UnmaskedGPT(len(bpe), embedding_dim=8), bpe), tmp_path / "best.ckpt")
    with pytest.raises(SettingError, match=r"^model._target_=minillm.models.unmasked.UnmaskedGPT: has no form"):
        export(run, Transformers(), tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_the_script_writes_a_folder_with_a_card(
    run_script: Callable[..., Any], run_folder: Path, trained: LanguageModel, tmp_path: Path
) -> None:
    target = tmp_path / "my model"
    ckpt = run_folder / "checkpoints" / "best.ckpt"
    ended = run_script("export", f"ckpt={ckpt}", f"path={target}")
    assert (ended.status, ended.stderr) == (0, "")
    back = minillm.load(target, device="cpu")
    assert back.score(ARTICLES[:3]) == trained.score(ARTICLES[:3])
    card = (target / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    evaluation = json.loads((run_folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    [result] = head["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(evaluation["splits"]["test"]["bits_per_byte"], abs=1e-4)
    assert head["license"] == "cc0-1.0"
    assert head["language"] == "es"
    for finding in evaluation["findings"]:
        assert finding.replace("<", "&lt;").replace("|", "\\|").replace("`", "'")[:40] in card
    low, high = evaluation["splits"]["test"]["ci95"]["loss"]
    assert f"[{low:.4f}, {high:.4f}]" in card
    attributed = (target / "ATTRIBUTION.tsv").read_text(encoding="utf-8").splitlines()
    assert len(attributed) == 1 + sum(evaluation["data"]["articles"].values())
    assert str(tmp_path.parent) not in card + (target / "minillm.json").read_text(encoding="utf-8")
    again = run_script("export", f"ckpt={ckpt}", f"path={target}")
    assert (again.status, again.stderr.count("\n")) == (2, 1)
    assert "is there already" in again.stderr


@pytest.mark.parametrize("trusted", [True, False, None])
def test_the_card_opens_with_what_must_be_known(
    trusted: bool | None, run_folder: Path, trained: LanguageModel, tmp_path: Path
) -> None:
    evaluation = json.loads((run_folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["trustworthy"] = bool(trusted)
    run = TrainedRun(trained, run_folder, None if trusted is None else evaluation)
    export(run, Transformers(), tmp_path / "folder")
    top = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8").split("## How to use")[0]
    assert ("not to be trusted" in top) == (trusted is False)
    assert ("was not evaluated" in top) == (trusted is None)
    assert ("model-index" in top) == (trusted is not None)


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def stranger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers alone wrote, its tokenizer too; Qwen3's has no token for a text's beginning."""
    import tokenizers

    native = tokenizers.ByteLevelBPETokenizer()
    native.train_from_iterator(ARTICLES[:60], 500, special_tokens=[], show_progress=False)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=native._tokenizer,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>" if request.param == "gpt2" else None,
    )
    torch.manual_seed(1)
    size = len(wrapped) + 12  # rows that stand for no token, as many a model has
    if request.param == "gpt2":
        config = transformers.GPT2Config(vocab_size=size, n_positions=40, n_embd=32, n_layer=2, n_head=4)
        network = transformers.GPT2LMHeadModel(config)
    else:
        network = transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=40,
                tie_word_embeddings=True,
            )
        )
    folder = tmp_path_factory.mktemp(request.param)
    network.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def test_a_strangers_folder_gives_the_strangers_logits(stranger: Path) -> None:
    model = minillm.load(stranger, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(stranger)
    tokenizer = transformers.AutoTokenizer.from_pretrained(stranger)
    end = tokenizer.eos_token_id
    for text in ARTICLES[100:110]:
        ours, ids = model.tokenizer.encode(text)[:30], tokenizer(text, add_special_tokens=False).input_ids[:30]
        assert model.tokenizer.decode(ours) == tokenizer.decode(ids)
        with torch.no_grad():
            logits = model.network(torch.tensor([[BOS, *ours]]))[0]
            expected = theirs(torch.tensor([[end, *ids]])).logits[0]
        torch.testing.assert_close(logits[:, ours], expected[:, ids], rtol=0, atol=1e-4)
        torch.testing.assert_close(logits[:, 3], expected[:, end], rtol=0, atol=1e-4)
    assert model.tokenizer.encode_counting(ARTICLES[3])[0].tolist() == model.tokenizer.encode(ARTICLES[3])
    assert len(model.generate("La ciudad", 8, seed=1)) > len("La ciudad")


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    state = load_file(weights)
    first = next(name for name in state if name.endswith("c_fc.weight") or name.endswith("up_proj.weight"))
    settings = json.loads(config.read_text())
    if kind == "pickled":
        weights.unlink()
        torch.save(state, folder / "pytorch_model.bin")
    elif kind == "missing":
        del state[first]
    elif kind == "extra":
        state["more.weight"] = torch.zeros(2)
    elif kind == "shape":
        state[first] = state[first][:-1].contiguous()
    elif kind == "nan":
        state[first][0, 0] = float("nan")
    elif kind == "form":
        settings["model_type"] = "llama"
    elif kind == "huge":
        settings |= {"n_layer": 10**6, "num_hidden_layers": 10**6}
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    if kind != "pickled":
        save_file(state, weights)
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    config.write_text("[1" if kind == "config" else json.dumps(settings))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickled", "pytorch_model.bin, which could run code"),
        ("missing", "1 of its weights, such as blocks"),
        ("extra", "1 of its weights, such as more.weight"),
        ("shape", "1 of its weights, such as blocks"),
        ("nan", "not finite"),
        ("form", "llama is another form"),
        ("huge", "num_layers"),
        ("no tokenizer", "is not there"),
        ("tokenizer", "not a tokenizer"),
        ("cut", "is damaged"),
        ("config", "no JSON"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(kind: str, message: str, stranger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(stranger, folder)
    damage(folder, kind)
    with pytest.raises(SettingError, match=message) as caught:
        minillm.load(folder, device="cpu")
    assert str(caught.value).startswith("ckpt=")
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_noticed(run_folder: Path, tmp_path: Path) -> None:
    folder = export(TrainedRun.of(str(run_folder / "checkpoints" / "best.ckpt")), Transformers(), tmp_path / "folder")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-50] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SettingError, match="is damaged or was changed"):
        minillm.load(folder, device="cpu")


def test_training_starts_from_a_strangers_folder(
    stranger: Path, train: Callable[..., Any], run_script: Callable[..., Any], tmp_path: Path
) -> None:
    first = [argument for argument in train.args if not argument.startswith(("model.", "data.vocab"))]  # type: ignore[attr-defined]
    first = [argument for argument in first[1:] if not argument.startswith("data.max_length")]
    with contextlib.chdir(tmp_path):
        refused = run_script("train", *first, f"init_from={stranger}", "data.vocab_size=900")
        assert (refused.status, refused.stderr.count("\n")) == (2, 1)
        assert "data.vocab_size=900" in refused.stderr
        missing = run_script("train", *first, "init_from=nowhere")
        assert (missing.status, missing.stderr.count("\n")) == (2, 1)
        assert missing.stderr.startswith("error: init_from=nowhere: does not exist")
        ended = run_script("train", *first, f"init_from={stranger}", "hydra.run.dir=run")
        assert ended.status == 0, ended.stderr
        assert "On the new test split" in ended.stdout
        evaluation = json.loads(Path("run/evaluation/evaluation.json").read_text(encoding="utf-8"))
        new = evaluation["init_from"]["new"]
        assert new["after"]["bits_per_byte"] < new["before"]["bits_per_byte"]
        model = minillm.load("run/checkpoints/best.ckpt", device="cpu")
        assert model.tokenizer.to_json() == minillm.load(stranger, device="cpu").tokenizer.to_json()
        assert model.config["init_from"] == str(stranger)
        more = run_script("train", "resume=run", "trainer.max_epochs=2", "evaluation=none")
        assert more.status == 0, more.stderr
