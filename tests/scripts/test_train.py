import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import minillm
from minillm.corpus import SampleSource

Run = Callable[..., Any]
ROOT = Path(__file__).parent.parent.parent
SPLIT_FIGURES = ("loss", "perplexity", "accuracy", "bits_per_byte", "bleu", "prediction_bias")
NAMES = {
    *("train/loss", "train/tokens_per_second", "train/mfu", "train/grad_norm", "train/seconds", "lr", "memory/rss_mib"),
    *(f"{split}/{name}" for split in ("val", "test") for name in SPLIT_FIGURES),
}


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def final(run: Path, name: str = "val/loss") -> float:
    return float([row[name] for row in rows(run) if row[name]][-1])


def test_a_run_leaves_what_the_design_promises(run_folder: Path) -> None:
    files = {path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*") if path.is_file()}
    assert {
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "train.log",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
    } <= files
    assert any(name.startswith("tensorboard/events.out.tfevents") for name in files)
    assert not [name for name in files if name.endswith(".tmp")]
    log = (run_folder / "train.log").read_text(encoding="utf-8")
    for epoch in 1, 2:
        assert re.search(rf" INFO epoch {epoch}/2: val \d\.\d+ bits/byte, loss \d\.\d+, train .* left\n", log)
    assert [row["epoch"] for row in rows(run_folder) if row["val/loss"]] == ["1", "2"]


def test_the_terminal_shows_the_data_the_network_the_results_and_what_to_do_next(finished: Path) -> None:
    shown = (finished / "stdout.txt").read_text(encoding="utf-8")
    for part in (
        "Data funnel",
        "near duplicate",
        "[UNK]",
        "MiniGPT",
        "38,368",
        "Results",
        "bits per byte",
        "bigram model",
    ):
        assert part in shown
    assert "En el año 1492," in shown
    [command] = [line for line in shown.splitlines() if "scripts/generate.py" in line]
    assert (finished / command.partition("ckpt=")[2].split()[0]).is_file()
    assert "Warning" not in (finished / "stderr.txt").read_text(encoding="utf-8")
    assert "deprecated" not in (finished / "stderr.txt").read_text(encoding="utf-8")


def test_tensorboard_and_the_table_hold_the_promised_names(run_folder: Path) -> None:
    accumulator = events(run_folder)
    assert set(accumulator.Tags()["scalars"]) >= NAMES
    table = rows(run_folder)
    assert set(table[0]) >= NAMES
    for name in NAMES:
        logged = [float(row[name]) for row in table if row[name]]
        assert [event.value for event in accumulator.Scalars(name)] == pytest.approx(logged, rel=1e-5)
        assert logged
    assert len(accumulator.Scalars("val/loss")) == 2
    assert len(accumulator.Scalars("test/loss")) == 1


def test_tensorboard_opens_on_loss_bits_per_byte_and_speed_with_train_and_val_in_two_colours(run_folder: Path) -> None:
    names = [tag for tag in events(run_folder).Tags()["scalars"] if "epoch" in tag]
    assert names == []
    drawn = {}
    for split in "train", "val":  # TensorBoard gives each run, that is each folder, a colour
        accumulator = EventAccumulator(str(run_folder / "tensorboard" / split)).Reload()
        drawn[split] = set(accumulator.Tags()["scalars"])
        for tag in drawn[split]:
            logged = [float(cell) for row in rows(run_folder) if (cell := row[f"{split}/{tag.partition('/')[2]}"])]
            assert [event.value for event in accumulator.Scalars(tag)] == pytest.approx(logged, rel=1e-5)
    assert drawn["train"] == {"curves/loss", "curves/tokens_per_second"}
    assert drawn["val"] == {"curves/loss", "curves/bits_per_byte"}
    # The groups are shown in the order of the alphabet.
    assert min(events(run_folder).Tags()["scalars"] + [*drawn["train"]]).startswith("curves/")


def test_tensorboard_holds_text_samples_and_the_hyperparameters_with_what_came_of_them(run_folder: Path) -> None:
    accumulator = events(run_folder)
    texts = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith("samples/")]
    assert len(texts) == 2
    for tag in texts:
        samples = [event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(tag)]
        assert len(samples) == 2
        assert all(sample.startswith(("En el año 1492,", "Durante la Edad Media,")) for sample in samples)
    plugin = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in b"model.embedding_dim", b"data.vocab_size", b"optimizer.lr":
        assert name in plugin
    assert b"MiniGPT" in plugin
    assert b"_target_" not in plugin
    assert b"_partial_" not in plugin
    assert {"final/val/bits_per_byte", "final/test/loss"} <= set(accumulator.Tags()["scalars"])


def test_the_figures_shown_last_are_those_of_the_best_epoch(finished: Path, run_folder: Path) -> None:
    losses = [float(row["val/loss"]) for row in rows(run_folder) if row["val/loss"]]
    shown = (finished / "stdout.txt").read_text(encoding="utf-8").split("Results")[1]
    assert f" {min(losses):.4f} " in shown
    assert f" {final(run_folder, 'test/loss'):.4f} " in shown
    best = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["metrics"]["val/loss"] == pytest.approx(min(losses))
    assert losses[1] < losses[0]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(train: Run) -> None:
    for name, seed in ("a", 1), ("b", 1), ("c", 2):
        assert train(f"seed={seed}", f"hydra.run.dir={name}").status == 0
    a, b, c = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(torch.equal(a[key], c[key]) for key in a if "embedding" in key or "head" in key)
    timed = {"train/seconds", "train/tokens_per_second", "train/mfu", "memory/rss_mib"}
    first, second = ([{k: v for k, v in row.items() if k not in timed} for row in rows(Path(n))] for n in "ab")
    assert first == second
    assert final(Path("a")) != final(Path("c"))


def test_a_sweep_makes_a_run_for_each_combination(train: Run) -> None:
    swept = ("model.dropout=0.1,0.3", "data.vocab_size=400,500")
    ended = train(*swept, "-m")
    assert ended.status == 0, ended.stderr
    [folder] = Path("outputs/multirun").iterdir()
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert [run.name for run in runs] == ["0", "1", "2", "3"]
    settings = [minillm.load(run / "checkpoints" / "best.ckpt").config for run in runs]
    combinations = [(s["model"]["dropout"], s["data"]["vocab_size"]) for s in settings]
    assert sorted(combinations) == [(0.1, 400), (0.1, 500), (0.3, 400), (0.3, 500)]
    assert all((run / name).is_file() for run in runs for name in ("train.log", "metrics.csv", ".hydra/config.yaml"))


def test_the_script_returns_the_figure_that_a_sweep_optimizes(train: Run, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "keeper.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Keeper(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        open('returned.txt', 'a').write(f'{job_return.return_value}\\n')\n"
    )
    metrics = ("val/bits_per_byte", "test/accuracy")
    sys.path.insert(0, str(tmp_path / "sweep"))
    try:
        for metric in metrics:
            callback = "+hydra.callbacks.keeper._target_=keeper.Keeper"
            ended = train(callback, f"optimized_metric={metric}", f"hydra.run.dir={metric}")
            assert ended.status == 0, ended.stderr
    finally:
        sys.path.remove(str(tmp_path / "sweep"))
    returned = [float(line) for line in Path("returned.txt").read_text().split()]
    assert returned == pytest.approx([final(Path(metric), metric) for metric in metrics])


def test_an_experiment_file_overrides_cleanly(train: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "narrow.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /scheduler: cosine\n  - override /tokenizer: bpe\n"
        "data:\n  batch_size: 16\n  batching: packed\nmodel:\n  num_heads: 2\nseed: 7\n"
    )
    ended = train(f"hydra.searchpath=[file://{tmp_path}/mine]", "experiment=narrow", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    config = OmegaConf.load("run/.hydra/config.yaml")
    assert config.scheduler.after == "cosine"
    assert "BPE" in config.tokenizer._target_
    assert (config.data.batch_size, config.data.batching, config.data.vocab_size) == (16, "packed", 400)
    assert (config.model.num_heads, config.model.embedding_dim, config.seed) == (2, 32, 7)
    model = minillm.load("run/checkpoints/best.ckpt", device="cpu")
    assert (len(model.tokenizer), model.tokenizer.kind, model.config["seed"]) == (400, "bpe", 7)


def test_a_folder_of_ones_own_texts_is_enough_to_train_on(train: Run) -> None:
    articles = [{"id": a.page_id, "title": a.title, "text": a.text} for a in SampleSource().articles(50, ())]
    articles += [{"id": 1, "title": "Corto", "text": "Demasiado corto."}]
    Path("texts").mkdir()
    Path("texts/all.jsonl").write_text("".join(json.dumps(article) + "\n" for article in articles), encoding="utf-8")
    own = ("data=files", "data.source.path=texts", "data.num_articles=null")
    ended = train(*own, "scheduler=constant", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    cells = [line.split("│") for line in ended.stdout.splitlines() if line.count("│") == 3]
    counts = {name.strip(): count.strip() for _, name, count, _ in cells}
    assert (counts["read"], counts["too short"], counts["kept"]) == ("51", "1", "50")
    rates = [float(row["lr"]) for row in rows(Path("run")) if row["lr"]]
    assert rates
    assert all(rate == pytest.approx(3e-4) for rate in rates)


def test_training_that_ends_within_its_first_epoch_is_validated_tested_and_evaluated(train: Run) -> None:
    ended = train("trainer.max_steps=2", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    for name in "best", "last":
        assert torch.load(f"run/checkpoints/{name}.ckpt", weights_only=True)["global_step"] == 2
    assert [row["step"] for row in rows(Path("run")) if row["val/loss"]] == ["1"]
    assert Path("run/evaluation/evaluation.json").is_file()


def test_training_without_a_validation_keeps_its_last_checkpoint_and_says_so(train: Run) -> None:
    ended = train("trainer.limit_val_batches=0", "~callbacks.early_stopping", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    assert "no best checkpoint to test" in ended.stderr
    assert Path("run/checkpoints/last.ckpt").is_file()


def diverged(ended: Any) -> str:
    """Check how a training ended that diverged; return the last line."""
    last: str = ended.stderr.splitlines()[-1]
    assert ended.status == 1, ended.stderr
    assert last.startswith("error: the training has diverged: at step ")
    assert "a lower optimizer.lr, a longer scheduler.warmup or a smaller callbacks.gradient_clipping.max_norm" in last
    assert "Traceback" not in ended.stderr
    assert not list(Path("run").rglob("*.tmp"))
    return last


@pytest.mark.parametrize("settings", [(), ("callbacks=[default,ema]",), ("training.label_smoothing=0",)])
def test_a_training_that_diverges_ends_in_one_line_and_keeps_the_last_good_checkpoint(
    train: Run, settings: tuple[str, ...]
) -> None:
    frequent = "callbacks.checkpointing.every_n_train_steps=1"
    last = diverged(train("optimizer.lr=1e4", frequent, *settings, "hydra.run.dir=run"))
    assert re.search(r"at step 3, with learning rate 8\.89e\+03, the loss is nan; ", last)
    assert last.endswith("/run/checkpoints/last.ckpt")
    kept = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_weights_that_broke_in_the_last_step_are_not_saved(train: Run) -> None:
    settings = ("scheduler=constant", "scheduler.warmup=0", "callbacks.checkpointing.every_n_train_steps=1")
    last = diverged(train("optimizer.lr=1e39", *settings, "hydra.run.dir=run"))
    assert "at step 1, with learning rate 1e+39, weights or the optimizer's averages are not finite" in last
    assert last.endswith("there was no checkpoint yet")
    assert not list(Path("run").rglob("*.ckpt"))


@pytest.mark.parametrize("lr", ["1e4", "1e30"])
def test_a_validation_whose_figures_are_no_numbers_has_no_best_checkpoint(train: Run, lr: str) -> None:
    last = diverged(train(f"optimizer.lr={lr}", "trainer.limit_train_batches=1", "hydra.run.dir=run"))
    assert re.search(r"at step 1, .*, val/\w+ is (nan|inf)", last)
    assert not list(Path("run").rglob("*.ckpt"))


def test_a_time_limit_ends_the_training_with_a_validation_and_counts_on_when_resumed(train: Run) -> None:
    limited = ("trainer.max_epochs=2", "trainer.log_every_n_steps=1", "evaluation=none")
    assert train(*limited, "trainer.max_time=0.01s", "hydra.run.dir=a").status == 0
    saved = torch.load("a/checkpoints/best.ckpt", weights_only=True)
    assert saved["global_step"] == 1  # a step of the two epochs' twenty takes longer
    [first] = [float(row["train/seconds"]) for row in rows(Path("a")) if row["train/seconds"]]
    resume = ("ckpt_path=a/checkpoints/last.ckpt", *limited)
    assert train(*resume, "trainer.max_time=0.01s", "hydra.run.dir=b").status == 0
    assert "train/loss" not in rows(Path("b"))[0]  # the time was up
    assert train(*resume, "trainer.max_time=1h", "hydra.run.dir=c").status == 0
    seconds = [float(row["train/seconds"]) for row in rows(Path("c")) if row["train/seconds"]]
    assert first < seconds[0] < seconds[-1]


def test_parts_can_be_left_out(train: Run) -> None:
    left_out = ("~callbacks.text_samples", "~callbacks.bleu_evaluation", "~callbacks.progress_bar", "~logger.csv")
    ended = train(*left_out, "callbacks.gradient_clipping.max_norm=inf", "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    assert Path("run/checkpoints/best.ckpt").is_file()
    assert not Path("run/metrics.csv").exists()
    evaluation = json.loads(Path("run/evaluation/evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["config"]["callbacks"]["gradient_clipping"]["max_norm"] == "inf"  # JSON has no infinity


def test_a_run_resumed_in_another_folder_keeps_the_best_checkpoint_there_and_touches_no_other(
    train: Run, run_folder: Path
) -> None:
    before = {path: path.read_bytes() for path in (run_folder / "checkpoints").iterdir()}
    ended = train(
        "trainer.max_epochs=2",
        "optimizer.lr=0.003",
        f"ckpt_path={run_folder}/checkpoints/last.ckpt",
        "hydra.run.dir=resumed",
    )
    assert ended.status == 0, ended.stderr
    best = torch.load("resumed/checkpoints/best.ckpt", weights_only=True)
    was = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["metrics"] == was["metrics"]
    assert {path: path.read_bytes() for path in (run_folder / "checkpoints").iterdir()} == before


def test_the_composed_config_is_for_people(run_script: Run) -> None:
    shown = run_script("train", "--cfg", "job").stdout
    config = OmegaConf.create(shown)
    assert (config.data.vocab_size, config.data.max_length, config.data.batch_size) == (5000, 128, 32)
    assert config.optimizer.lr == 3e-4
    assert "hydra" not in config
    assert not list(Path().iterdir())


def test_the_command_in_a_shell_trains_and_exits_with_0(tiny: tuple[str, ...]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    [run] = Path("outputs/train").iterdir()
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert [line for line in ended.stderr.splitlines() if " INFO epoch " not in line] == []
