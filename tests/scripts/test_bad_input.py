"""What a user can get wrong: one line that names the setting, exit status 2, and nothing half-written."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]
ROOT = Path(__file__).parent.parent.parent
FILES = ("data=files", "data.num_articles=null", "data.source.path=texts")


@pytest.fixture
def generate(run_script: Run) -> Run:
    """Run scripts/generate.py."""
    return partial(run_script, "generate")


@pytest.fixture
def evaluate(run_script: Run) -> Run:
    """Run scripts/evaluate.py."""
    return partial(run_script, "evaluate")


def refused(script: Run, *arguments: str) -> str:
    """Run a script that has to fail; check the manner of it and return what it says."""
    ended = script(*arguments)
    assert ended.status == 2, ended.stderr
    lines = ended.stderr.splitlines()
    # Where a checkpoint was loaded, generate.py says which one.
    assert len(lines) == 1 or (len(lines) == 2 and ".ckpt: MiniGPT, " in lines[0]), ended.stderr
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in ended.stdout
    for path in Path("outputs").rglob("*"):
        assert not re.search(r"\.tmp$|\.ckpt$", path.name), path
    assert not list(Path("outputs").glob("train/*")), "a run that was refused is no run"
    return lines[-1].removeprefix("error: ")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("data.vocab_size=3", "data.vocab_size=3: tokenizer=word needs at least 5"),
        ("data.vocab_size=abc", "data.vocab_size=abc: must be int, not str"),
        ("data.split=[0.9,0.2,0.1]", "data.split=[0.9, 0.2, 0.1]: must be three shares"),
        ("data.split=[0.8,0.2,0]", "data.split=[0.8, 0.2, 0]: leaves val or test without articles"),
        ("data.min_length=1000000", "data.min_length=1000000: leaves no article of 60"),
        ("data.max_length=1", "data.max_length=1: must be at least 2"),
        ("data.max_length=100000000", "data.max_length=100000000: must be at most 65,536"),
        ("data.vocab_size=100000000", "data.vocab_size=100000000: must be at most 10,000,000"),
        ("data.batch_size=100000000", "data.batch_size=100000000: times max_length=64 is more than 4,194,304 tokens"),
        ("data.duplicates.num_perm=1000000", "data.duplicates.num_perm=1000000: must be from 16 to 4096"),
        ("data.duplicates.shingle_words=1000000", "data.duplicates.shingle_words=1000000: must be from 1 to 100"),
        ("model.num_layers=100000000", "model.num_layers=100000000: must be at most 1,000"),
        (
            "model.embedding_dim=100000000",
            "model.embedding_dim=100000000: the weights of the network, with",
        ),
        ("callbacks.text_samples.max_new_tokens=100000000", "callbacks.text_samples.max_new_tokens=100000000: must be"),
        ("data.batch_size=0", "data.batch_size=0: must be at least 1"),
        ("data.num_workers=-1", "data.num_workers=-1: must be at least 0"),
        ("data.batching=loose", "data.batching=loose: must be Literal['dynamic', 'packed'], not str"),
        ("data.cleaning.urls=3", "data.cleaning.urls=3: must be bool, not int"),
        ("data.cleaning.dates=si", "data.cleaning.dates=si: must be bool, not str"),
        ("data.cleaning.numbers=2", "data.cleaning.numbers=2: must be bool, not int"),
        ("tokenizer.digits=all", "tokenizer.digits=all: must be bool, not str"),
        ("tokenizer.names=-1", "tokenizer.names=-1: must be at least 0"),
        ("data.augmentation.word_dropout=2", "data.augmentation.word_dropout=2: must be a probability"),
        ("data.augmentation.word_dropout=x", "data.augmentation.word_dropout=x: must be float, not str"),
        ("data.augmentation.sentence_reordering=-1", "data.augmentation.sentence_reordering=-1: must be a probability"),
        ("data.augmentation.bpe_dropout=1.5", "data.augmentation.bpe_dropout=1.5: must be a probability"),
        ("data.augmentation.bpe_dropout=0.1", "data.augmentation.bpe_dropout=0.1: tokenizer=word has no merges"),
        ("data.curriculum.by=size", "data.curriculum.by=size: must be Optional[Literal['length', 'difficulty']]"),
        ("data.curriculum.warmup=-1", "data.curriculum.warmup=-1: must be a share of the training"),
        ("data.curriculum.start=0", "data.curriculum.start=0: must be over 0"),
        ("model.num_heads=3", "model.num_heads=3: must divide embedding_dim=32; one of [1, 2, 4, 8, 16] would do"),
        ("model.num_layers=two", "model.num_layers=two: must be int, not str"),
        ("model._target_=os.system", "model."),
        ("model._target_=no.such.Network", "model._target_=no.such.Network: cannot be imported"),
        ("+model.vocab_size=3", "model._target_=minillm.models.MiniGPT: "),
        ("model=gpt5", "model=gpt5: is no choice; did you mean model=gpt2? one of gpt2, minigpt, "),
        ("optimizer.lr=-1", "optimizer.lr=-1: Invalid learning rate: -1"),
        ("optimizer.betas=[2,0.9]", "optimizer.betas=[2, 0.9]: Invalid beta parameter"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1: Invalid weight_decay"),
        ("optimizer.decay=biases", "optimizer.decay=biases: must be Literal['all', 'matrices'], not str"),
        ("scheduler.warmup=-1", "scheduler.warmup=-1: must be a share of the training"),
        ("training.compile=yes", "training.compile=yes: must be off, on or auto"),
        ("training.label_smoothing=2", "training.label_smoothing=2: must be at least 0 and under 1"),
        ("trainer.accelerator=foo", "trainer.accelerator=foo: You selected an invalid accelerator name"),
        ("trainer.precision=7", "trainer.precision=7: Precision 7 is invalid"),
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: must be Optional[int], not str"),
        ("+trainer.max_step=1", "trainer.max_step=1: Trainer has no such setting; did you mean max_steps?"),
        ("+foo=1", "foo=1: there is no such setting"),
        ("+optimised_metric=val/loss", "optimised_metric=val/loss: there is no such setting; did you mean opt"),
        ("paths.data_dir=''", "paths.data_dir='': must name a folder"),
        ("paths.data_dir=null", "paths.data_dir=None: must name a folder"),
        (
            "callbacks.early_stopping=null",
            "callbacks.early_stopping=None: has no _target_; ~callbacks.early",
        ),
        ("+callbacks.mine=3", "callbacks.mine=3: has no _target_"),
        ("optimizer.lr=nan", "optimizer.lr=nan: is not a number"),
        ("data.num_articles=100000000000000000000", "data.num_articles=100000000000000000000: has more than 64 bits"),
        ("seed=-1", "seed=-1: must be from 0 to 4294967295"),
        ("seed=one", "seed=one: must be int, not str"),
        ("trainer.max_time=abc", "trainer.max_time=abc: must be a time over 0, such as 00:01:30:00"),
        ("trainer.devices=-3", "trainer.devices=-3: must be at least 1, or -1 for all there are"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: must be at least 1"),
        ("trainer.val_check_interval=1000000", "trainer.val_check_interval=1000000: must be at most the 10 batches"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: must be at least 1"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp: shards the parameters, but gradient clipping, "),
        ("trainer.precision=bf16-true", "trainer.precision=bf16-true: keeps the weights in half precision"),
        (
            "callbacks.checkpointing.dirpath=/proc/x",
            "callbacks.checkpointing.dirpath=/proc/x: is no folder to write in",
        ),
        ("callbacks.checkpointing.dirpath=", "callbacks.checkpointing.dirpath=: is no folder to write in"),
        ("callbacks.checkpointing.dirpath=/dev/null", "callbacks.checkpointing.dirpath=/dev/null: is no folder"),
        ("callbacks.text_samples.prompts=['']", "callbacks.text_samples.prompts=['']: must not be empty"),
        ("callbacks.text_samples.temperature=-1", "callbacks.text_samples.temperature=-1: must be at least 0"),
        ("callbacks.gradient_clipping.max_norm=0", "callbacks.gradient_clipping.max_norm=0: must be over 0"),
        ("ckpt_path=none.ckpt", "ckpt_path=none.ckpt: does not exist"),
        ("ckpt_path=.", "ckpt_path=.: is a folder"),
        ("resume=nowhere", "resume=nowhere: does not exist"),
        ("resume=latest", "resume=latest: no run under outputs has a last.ckpt"),
        ("resume=.", "resume=.: holds no checkpoints/last.ckpt"),
        ("data=files", "data.source.path=None: must name a file"),
        ("data=null", "data=null: is no choice; one of dump, files, hub, sample, wikipedia, wikipedia_featured"),
        ("model=null", "model=null: is no choice; one of gpt2, minigpt"),
        ("callbacks=null", "callbacks=null: is no choice; one of "),
        ("~optimizer", "optimizer=None: leaves nothing to work with; one of adamw, muon would do"),
    ],
)
def test_a_setting_that_cannot_work_is_named(train: Run, setting: str, says: str) -> None:
    assert refused(train, setting).startswith(says)
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("choice", "setting", "says"),
    [
        ("model=minigpt_modern", "model.num_kv_heads=3", "model.num_kv_heads=3: must divide num_heads=4"),
        ("model=minigpt_modern", "model.num_heads=100000000", "model.num_heads=100000000: must divide"),
        ("model=minigpt_modern", "model.feedforward_dim=1000000000000000000", "model.embedding_dim=32: the weights of"),
        ("model=gpt2", "model.max_length=1000000000000000000", "model.max_length=1000000000000000000: must be at most"),
        (
            "tokenizer=bpe",
            "data.vocab_size=1000000000000000000",
            "data.vocab_size=1000000000000000000: must be",
        ),
        ("model=minigpt_modern", "model.head_dim=7", "model.head_dim=7: must be even, such as 8"),
        ("model=minigpt_modern", "model.dropout={head:0.1}", "model.dropout.head=0.1: is unknown"),
        ("model=gpt2", "model.dropout={residual:2}", "model.dropout.residual=2: must be at least 0 and under 1"),
        ("optimizer=muon", "optimizer.lr=-1", "optimizer.lr=-1: must be at least 0"),
        ("optimizer=muon", "optimizer.momentum=1", "optimizer.momentum=1: must be at least 0 and under 1"),
        ("optimizer=muon", "optimizer.betas=[2,0.9]", "optimizer.betas=[2, 0.9]: Invalid beta parameter"),
        ("scheduler=wsd", "scheduler.decay=-0.2", "scheduler.decay=-0.2: must be a share of the training"),
        ("scheduler=wsd", "scheduler.after=sudden", "scheduler.after=sudden: must be Literal["),
        ("scheduler=cosine", "scheduler.final=2", "scheduler.final=2: must be a share of optimizer.lr from 0 to 1"),
        ("callbacks=[default,ema]", "callbacks.ema.decay=1", "callbacks.ema.decay=1: must be at least 0 and under 1"),
        (
            "callbacks=[default,learning_rate_finder]",
            "callbacks.learning_rate_finder.dirpath=/proc/x",
            "callbacks.learning_rate_finder.dirpath=/proc/x: is no folder to write in",
        ),
    ],
)
def test_a_setting_of_another_choice_that_cannot_work_is_named(
    train: Run, choice: str, setting: str, says: str
) -> None:
    assert refused(train, choice, setting).startswith(says)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["data.vocabsize=3"], "did you mean data.vocab_size=3?"),
        (["data.max_lenght=3"], "did you mean data.max_length=3?"),
        (["modle.num_layers=3"], "did you mean model.num_layers=3?"),
        (["optimiser.lr=3"], "did you mean optimizer.lr=3?"),
        (["sed=3"], "did you mean seed=3?"),
        (["lr=3"], "did you mean optimizer.lr=3?"),
        (["epochs=5"], "did you mean trainer.max_epochs=5?"),
        (["--epochs", "5"], "did you mean trainer.max_epochs=5?"),
        (["--lr=3"], "did you mean optimizer.lr=3?"),
        (["epochs", "5"], "did you mean trainer.max_epochs=5?"),
        (["gpu=1"], "did you mean trainer=gpu?"),
        (["datas=sample"], "did you mean data=sample?"),
        (["model=minigpt_modern", "model.kv_heads=2"], "did you mean model.num_kv_heads=2?"),
        (["data.source.path=texts"], "data=files or data=hub has it"),
        (["callbacks.ema.decay=0.9"], "callbacks=[default,ema] has it"),
        (["trainer.gradient_clip_val=1"], "++trainer.gradient_clip_val=1 adds it"),
        (["trainer.foo=1"], "--help lists the main settings, --cfg job all"),
        (["qwertz"], "--help lists the main settings, --cfg job all"),
        (["~optimizer.foo"], "--help lists the main settings, --cfg job all"),
        (["experiment=moderm"], "did you mean experiment=modern?"),
    ],
)
def test_a_mistyped_setting_gets_the_name_of_the_one_that_was_meant(
    run_script: Run, words: list[str], meant: str
) -> None:
    says = refused(partial(run_script, "train"), *words)
    assert meant in says
    assert says.startswith(words[-1] if len(words) == 1 or "=" in words[-1] else " ".join(words))
    assert not list(Path().iterdir())


def test_a_vocabulary_too_small_for_bytes_is_refused_before_any_reading(train: Run) -> None:
    says = refused(train, "tokenizer=bpe", "data.vocab_size=100", "paths.data_dir=fresh")
    assert says.startswith("data.vocab_size=100: tokenizer=bpe needs at least 260")
    assert not Path("fresh").exists()


def test_names_that_leave_no_room_for_bytes_are_refused_before_any_reading(train: Run) -> None:
    says = refused(train, "tokenizer=bpe", "data.vocab_size=300", "tokenizer.names=41", "paths.data_dir=fresh")
    assert says.startswith("tokenizer.names=41: vocab_size=300 leaves room for 40 at most")
    assert not Path("fresh").exists()


def test_a_curriculums_share_of_a_training_without_an_end_is_refused(train: Run) -> None:
    endless = ("trainer.max_epochs=-1", "scheduler=constant", "scheduler.warmup=0", "data.curriculum.by=length")
    assert refused(train, *endless).startswith("data.curriculum.warmup=0.3: is a share of a training without an end")


def test_a_trainer_that_cannot_be_is_refused_before_any_reading(train: Run) -> None:
    refused(train, "trainer.accelerator=foo", "paths.data_dir=fresh")
    assert not Path("fresh").exists()


def test_a_metric_that_nobody_logs_is_named_once_the_run_is_kept(train: Run) -> None:
    ended = train("optimized_metric=val/los", "hydra.run.dir=run")
    assert ended.status == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: optimized_metric=val/los: was not logged; ")
    assert "val/loss" in last
    assert Path("run/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_a_damaged_checkpoint_is_refused_by_both_scripts(
    train: Run, generate: Run, run_folder: Path, content: str
) -> None:
    whole = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    Path("a.ckpt").write_bytes({"empty": b"", "text": b"Hola", "truncated": whole[:-1000]}[content])
    damage = "a.ckpt: is damaged, incomplete, or not a checkpoint"
    assert refused(train, "ckpt_path=a.ckpt").startswith(f"ckpt_path={damage}")
    assert refused(generate, "ckpt=a.ckpt").startswith(f"ckpt={damage}")


def test_weights_that_are_no_numbers_are_refused_by_every_script(
    train: Run, generate: Run, evaluate: Run, run_folder: Path
) -> None:
    saved = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    saved["state_dict"]["network.head.weight"][3, 5] = float("nan")
    torch.save(saved, "a.pt")
    for script, setting in (train, "ckpt_path"), (generate, "ckpt"), (evaluate, "ckpt"):
        assert refused(script, f"{setting}=a.pt").startswith(f"{setting}=a.pt: has weights that are not finite")


def test_a_text_that_is_not_utf8_is_named_with_its_place(train: Run) -> None:
    Path("texts").mkdir()
    Path("texts/malo.jsonl").write_bytes(b'{"text": "bien"}\n{"text": "a\xf1o"}\n')
    assert "texts/malo.jsonl:2 is not UTF-8 (byte 0xf1)" in refused(train, *FILES)


def test_a_folder_without_articles_is_named(train: Run) -> None:
    Path("texts").mkdir()
    assert refused(train, *FILES).startswith("data.source.path=texts: holds no article")
    Path("texts/poema.md").write_text("Verde que te quiero verde")
    assert refused(train, *FILES).startswith("data.source.path=texts: holds no article")


@pytest.mark.parametrize("setting", ["hydra.run.dir", "paths.data_dir"])
def test_a_folder_that_cannot_be_written_is_named(train: Run, setting: str) -> None:
    Path("file").write_text("not a folder")
    says = refused(train, f"{setting}=file/below")
    assert "file" in says
    assert setting in says
    assert Path("file").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["prompt="], "prompt='': is empty"),
        (["prompt=   "], "prompt='': is empty"),
        (["prompt=" + "hola " * 500], "prompt='hola hola hola"),
        (["max_new_tokens=-1"], "max_new_tokens=-1: must be at least 0"),
        (["max_new_tokens=100000000"], "max_new_tokens=100000000: must be at least 0 and at most 100,000"),
        (["max_new_tokens=many"], "max_new_tokens=many: must be int"),
        (["seed=99999999999999999999"], "seed=99999999999999999999: has more than 64 bits"),
        (["sampling.temperature=-1"], "sampling.temperature=-1: must be at least 0"),
        (["sampling.top_k=0"], "sampling.top_k=0: must be at least 1"),
        (["sampling.top_p=2"], "sampling.top_p=2: must be over 0 and at most 1"),
        (
            ["temperature=1"],
            "temperature=1: there is no such setting; did you mean sampling.temperature=1?",
        ),
        (["ckpt=none.ckpt"], "ckpt=none.ckpt: does not exist"),
        (["ckpt=."], "ckpt=.: is a folder"),
    ],
)
def test_generation_refuses_what_cannot_be(generate: Run, run_folder: Path, settings: list[str], says: str) -> None:
    ckpt = [] if settings[0].startswith("ckpt=") else [f"ckpt={run_folder}/checkpoints/best.ckpt"]
    assert refused(generate, *ckpt, *settings).startswith(says)
    assert not list(Path().iterdir())


def test_in_a_shell_it_is_one_line_and_exit_status_2(tiny: tuple[str, ...]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny, "model.num_heads=3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert ended.stderr.startswith("error: model.num_heads=3: must divide")


def test_whoever_asks_for_it_gets_the_traceback(tiny: tuple[str, ...]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny, "data.vocab_size=3"]
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "Traceback" in ended.stderr
    assert "SettingError: data.vocab_size=3" in ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no limits on a file's size")
def test_a_disk_without_room_is_one_line_and_leaves_no_half_checkpoint(tiny: tuple[str, ...]) -> None:
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", limited, str(ROOT / "scripts" / "train.py"), *tiny, "hydra.run.dir=run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1, ended.stderr
    assert re.match(r"error: .*checkpoints/best.ckpt: cannot be written", last), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(Path("run/checkpoints").iterdir())
