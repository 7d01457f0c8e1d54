"""Sweeps: side by side, as a search that is pruned and resumed, and those that come ready."""

import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from minillm.checkpoint import read_checkpoint
from minillm.study import open_storage

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUICK = (
    "evaluation=none",
    "trainer.limit_train_batches=4",
    "~callbacks.bleu_evaluation",
    "~callbacks.text_samples",
    "~logger.tensorboard",
)
SEARCH = (*QUICK, "hydra/sweeper=optuna", "trainer.max_epochs=2", "optimizer.lr=tag(log,interval(1e-5,1e-2))")
PRUNED = ("hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.pruner.n_warmup_steps=0")


@pytest.fixture
def sweep(run_script: Run, tiny: tuple[str, ...]) -> Run:
    """Run scripts/train.py as a sweep."""
    return partial(run_script, "train", "--multirun", *tiny)


def trials(folder: str | Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name=None, storage=open_storage(f"{folder}/study.journal")).trials


def values(folder: str | Path) -> list[tuple[Any, ...]]:
    return [(trial.state, trial.params, trial.value, trial.intermediate_values) for trial in trials(folder)]


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_runs_side_by_side_share_the_data_and_end_as_they_would_alone(sweep: Run, train: Run) -> None:
    settings = (*QUICK, "paths.data_dir=data")
    ended = sweep(*settings, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", "hydra.sweep.dir=both")
    assert ended.status == 0, ended.stderr
    assert len(list(Path("data/encoded").glob("*/manifest.json"))) == 1
    assert not list(Path("data").rglob("*.tmp"))
    assert train(*settings, "seed=2", "hydra.run.dir=alone").status == 0
    both, alone = (read_checkpoint(f"{run}/checkpoints/last.ckpt")["state_dict"] for run in ("both/1", "alone"))
    assert all(torch.equal(both[name], alone[name]) for name in alone)


def test_a_run_that_fails_does_not_end_a_sweep(sweep: Run) -> None:
    ended = sweep(*QUICK, "model.num_heads=3,2", "hydra.sweep.dir=sweep")
    assert ended.status == 2
    assert "error: model.num_heads=3: must divide embedding_dim=32" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert Path("sweep/1/checkpoints/best.ckpt").is_file()


def test_a_search_prunes_bad_runs_and_goes_on_where_it_was(sweep: Run, run_script: Run) -> None:
    for wanted in 2, 4, 4:  # the last one finds nothing to do
        ended = sweep(*SEARCH, *PRUNED, f"hydra.sweeper.n_trials={wanted}", "hydra.sweep.dir=broken")
        assert ended.status == 0, ended.stderr
        assert [trial.number for trial in trials("broken")] == list(range(wanted))
    assert sweep(*SEARCH, *PRUNED, "hydra.sweeper.n_trials=4", "hydra.sweep.dir=whole").status == 0
    assert values("broken") == values("whole")

    states = [trial.state for trial in trials("whole")]
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)
    for trial in trials("whole"):
        run, pruned = Path("whole", str(trial.number)), trial.state is TrialState.PRUNED
        assert OmegaConf.load(run / ".hydra/config.yaml").optimizer.lr == trial.params["optimizer.lr"]
        assert (run / "pruned.txt").is_file() == pruned
        assert (run / "checkpoints/last.ckpt").is_file()
        saved = read_checkpoint(run / "checkpoints/last.ckpt")
        assert ("test/loss" in (run / "metrics.csv").read_text()) == (not pruned)
        assert list(trial.intermediate_values) == list(range(1, saved["epoch"] + 2))
    complete = [trial for trial in trials("whole") if trial.state is TrialState.COMPLETE]
    assert f"best: trial {min(complete, key=lambda trial: trial.value or 0).number}, " in ended.stdout

    shown = run_script("compare", "runs=whole", "sort_by=val/bits_per_byte", "metrics=[]", "output_dir=null")
    assert shown.status == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    verdicts = [line[0] for line in lines if line]
    assert verdicts.count("pruned") == states.count(TrialState.PRUNED)


def test_a_failed_trial_is_shown_and_the_search_goes_on(sweep: Run) -> None:
    ended = sweep(*SEARCH, "model.num_heads=choice(2,3)", "hydra.sweeper.n_trials=3", "hydra.sweep.dir=sweep")
    assert ended.status == 0, ended.stderr
    heads = {trial.params["model.num_heads"]: trial.state for trial in trials("sweep")}
    assert heads["3"] is TrialState.FAIL
    assert heads["2"] is not TrialState.FAIL
    assert "error: model.num_heads=3: must divide embedding_dim=32" in ended.stderr


def test_a_search_that_was_interrupted_goes_on_within_the_run(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "impatient.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lightning import Callback\n"
        "class User(Callback):\n"
        "    def on_train_batch_start(self, trainer, *_):\n"
        "        if trainer.global_step == 6 and Path('impatient').is_file() and '/1' in trainer.default_root_dir:\n"
        "            Path('impatient').unlink()\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    Path("impatient").touch()
    few = ("hydra.sweeper.n_trials=2", "+callbacks.user._target_=impatient.User")
    arguments = (*SEARCH, "hydra/sweeper/pruner=none", *few)
    ended = sweep(*arguments, "hydra.sweep.dir=killed")
    assert ended.status == 130
    [line] = [line for line in ended.stderr.splitlines() if "INFO" not in line]
    assert line == "stopped: the same command with hydra.sweep.dir=killed goes on from here"
    assert read_checkpoint("killed/1/checkpoints/last.ckpt")["global_step"] == 6  # of 8
    assert [trial.state for trial in trials("killed")] == [TrialState.COMPLETE, TrialState.RUNNING]
    for folder in "killed", "whole":
        ended = sweep(*arguments, f"hydra.sweep.dir={folder}")
        assert ended.status == 0, ended.stderr
    assert values("killed") == values("whole")
    killed, whole = (read_checkpoint(f"{folder}/1/checkpoints/last.ckpt") for folder in ("killed", "whole"))
    assert all(torch.equal(killed["state_dict"][name], whole["state_dict"][name]) for name in whole["state_dict"])
    killed_steps, whole_steps = ([row["step"] for row in table(f"{run}/1/metrics.csv")] for run in ("killed", "whole"))
    assert killed_steps == whole_steps


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "hydra.sweeper.params={}: has nothing to search over"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): "),
        (["optimizer.lr=range(1,1)"], "optimizer.lr=range(1,1): is empty"),
        (["hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials=many: must be int"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: must be at least 1"),
        (["hydra.sweeper.direction=up"], "hydra.sweeper.direction=up: must be Literal"),
        (["hydra.sweeper.storage=no://where", "seed=1,2"], "hydra.sweeper.storage=no://where: cannot be used: "),
        (["hydra.sweeper.storage=no/where", "seed=1,2"], "hydra.sweeper.storage=no/where: cannot be used: "),
        (
            ["hydra.sweeper.pruner.n_startup_trials=-1", "seed=1,2"],
            "hydra.sweeper.pruner=optuna.pruners.MedianPruner: ",
        ),
        (
            ["hydra.sweeper.sampler._target_=optuna.Foo"],
            "hydra.sweeper.sampler._target_=optuna.Foo: cannot be imported",
        ),
        (["hydra/sweeper/pruner=foo"], "In 'hydra/sweeper/optuna': Could not find 'hydra/sweeper/pruner/foo'"),
    ],
)
def test_a_search_that_cannot_work_is_one_line(sweep: Run, settings: list[str], says: str) -> None:
    ended = sweep("hydra/sweeper=optuna", "hydra.sweep.dir=sweep", *settings)
    assert ended.status == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"error: {says}")
    assert not list(Path("sweep").glob("*/"))


def test_a_search_in_the_folder_of_another_one_is_refused(sweep: Run) -> None:
    arguments = (*QUICK, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=sweep")
    assert sweep(*arguments, "seed=1,2").status == 0
    ended = sweep(*arguments, "seed=1,3", "hydra.sweeper.n_trials=2")
    assert ended.status == 2
    assert ended.stderr.startswith("error: hydra.sweep.dir=sweep: it has the study of another search")
    ended = sweep(*arguments, "seed=1,2", "hydra.sweeper.direction=maximize")
    assert ended.stderr.startswith("error: hydra.sweeper.direction=maximize: the study")


def test_a_figure_that_no_validation_has_cannot_be_searched_for(sweep: Run) -> None:
    ended = sweep(*SEARCH, "optimized_metric=test/loss", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=sweep")
    assert ended.status == 1
    assert "error: optimized_metric=test/loss: is not a validation metric; there are val/" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "error: sweep: no trial was completed (0 complete, 0 pruned, 1 failed)"


def test_a_search_that_is_started_as_a_single_run_is_refused(train: Run) -> None:
    ended = train("hydra/sweeper=optuna", "hydra.run.dir=run")
    assert ended.status == 2
    assert ended.stderr.splitlines()[-1].startswith("error: callbacks.pruning.storage=")
    assert "--multirun" in ended.stderr


def test_what_is_not_installed_is_named_with_its_extra(sweep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        ended = sweep(*SEARCH)
    assert (ended.status, ended.stderr) == (
        2,
        "error: hydra/sweeper=optuna: is not installed; pip install -e '.[sweep]'\n",
    )
    with monkeypatch.context() as patch:
        patch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml")
        ended = sweep("hydra/launcher=joblib")
    assert (ended.status, ended.stderr) == (
        2,
        "error: hydra/launcher=joblib: is not installed; pip install -e '.[sweep]'\n",
    )


def composed(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", list(overrides))
    parts = ("data", "tokenizer", "model", "optimizer", "scheduler", "training", "callbacks", "trainer")
    return {part: OmegaConf.to_container(config[part], resolve=False) for part in parts}


def test_the_ablation_has_every_improvement_and_each_changes_the_original() -> None:
    improvements = [file.stem for file in (ROOT / "conf/experiment/ablation").glob("*.yaml")]
    sweep = OmegaConf.load(ROOT / "conf/sweep/ablation.yaml").hydra.sweeper.params.experiment
    rows = [row.strip(" []") for row in sweep.split(",")]
    assert (rows[0], rows[-1]) == ("", "modern")
    assert sorted(rows[1:-1]) == sorted(f"ablation/{name}" for name in improvements)
    original = composed()
    for name in improvements:
        assert composed(f"experiment=[ablation/{name}]") != original, name
    # In the same time each bits per byte compare: all but the tokenizer's own row, since there each row has BPE.
    timed = OmegaConf.load(ROOT / "conf/benchmark/ablation.yaml").quality.experiments
    assert timed.pop("original") == []
    assert {name: list(row) for name, row in timed.items()} == {
        name: [f"experiment=ablation/{name}"] for name in improvements if name != "bpe"
    }


def test_the_ablation_and_the_search_run_by_their_names(run_script: Run, tiny: tuple[str, ...]) -> None:
    few = ("experiment=[],[ablation/bpe]", "seed=0,1", "hydra.sweep.dir=ablation")
    ended = run_script("train", *tiny, "sweep=ablation", *QUICK, *few)
    assert ended.status == 0, ended.stderr
    shown = run_script("compare", "runs=ablation", "over=seed", "output_dir=out")
    assert shown.status == 0, shown.stderr
    best, original = table("out/comparison.csv")
    assert (best["experiment"], original["experiment"]) == ("[ablation/bpe]", "[]")
    assert original["run"] == "ablation/0 ablation/1"
    assert float(original["test/bits_per_byte ±"]) > 0

    ended = run_script("train", *tiny, *QUICK[1:], "sweep=search", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=search")
    assert ended.status == 0, ended.stderr
    [trial] = trials("search")
    assert set(trial.params) == {"optimizer.lr", "model.dropout"}  # the test's own settings go before the others
