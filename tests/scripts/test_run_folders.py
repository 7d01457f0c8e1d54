"""A run's folder is its own: no other run writes into it, at the same time or later."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUICK = ("evaluation=none", "trainer.limit_train_batches=4", "~callbacks.bleu_evaluation", "~callbacks.text_samples",
         "~logger.tensorboard")  # fmt: skip


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(ended: Any) -> str:
    [line] = ended.stderr.splitlines()
    assert ended.status == 2
    return str(line.removeprefix("error: "))


def test_runs_that_begin_at_the_same_time_have_folders_of_their_own(train: Run) -> None:
    for _ in range(2):
        assert train(*QUICK, "hydra.run.dir=runs/${now:%Y}").status == 0  # the same all year
        assert train(*QUICK, "hydra.sweep.dir=sweeps/${now:%Y}", "seed=1,2", "-m").status == 0
    first, second = sorted(Path("runs").iterdir())
    assert second.name == f"{first.name}-2"
    for run in (first, second, *(sweep / run for sweep in Path("sweeps").iterdir() for run in ("0", "1"))):
        for left in (
            ".hydra/config.yaml",
            "train.log",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "metrics.csv",
        ):
            assert (run / left).is_file(), run / left
    assert len(list(Path("sweeps").iterdir())) == 2


def test_a_folder_in_which_a_run_is_at_work_is_refused_and_the_run_unharmed(
    train: Run, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny, "hydra.run.dir=run", "seed=3"]
    (tmp_path / "second.py").write_text(
        "import subprocess\n"
        "from lightning import Callback\n"
        "class Second(Callback):\n"
        "    def on_train_start(self, *_):\n"
        f"        ended = subprocess.run({command}, capture_output=True, text=True)\n"
        "        open('second.txt', 'w').write(f'{ended.returncode} {ended.stderr}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ended = train(*QUICK, "hydra.run.dir=run", "+callbacks.second._target_=second.Second", "seed=7")
    assert ended.status == 0, ended.stderr
    assert Path("second.txt").read_text() == (
        "2 error: hydra.run.dir=run: another run uses it; choose another folder\n"
    )
    assert "seed: 7" in Path("run/.hydra/config.yaml").read_text()
    assert Path("run/checkpoints/best.ckpt").is_file()


def test_a_new_run_in_the_folder_of_another_one_is_refused(train: Run, run_folder: Path) -> None:
    before = files(run_folder)
    for words in ((), (f"ckpt_path={run_folder}/nowhere.ckpt",)):
        says = error_of(train(*words, f"hydra.run.dir={run_folder}"))
        assert says.startswith(f"hydra.run.dir={run_folder}: has the checkpoints of another run; resume={run_folder}")
    assert files(run_folder) == before


def test_a_new_sweep_in_the_folder_of_another_one_is_refused(train: Run) -> None:
    arguments = (*QUICK, "seed=1,2", "hydra.sweep.dir=sweep", "-m")
    assert train(*arguments).status == 0
    before = files(Path("sweep"))
    assert error_of(train(*arguments)).startswith("hydra.sweep.dir=sweep: contains the runs of another sweep")
    assert files(Path("sweep")) == before
