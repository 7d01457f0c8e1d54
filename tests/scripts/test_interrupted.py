"""Ctrl-C and SIGTERM: one line that says how to go on, 130 and 143, and what was computed is kept."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import FileLock

from minillm.checkpoint import read_checkpoint

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Sends this process signals, once, at the moment that the file `stop` names: a hook, how often it was met, the numbers.
STOPPER = """
import os, signal
from pathlib import Path
from lightning import Callback
from minillm.corpus import SampleSource

class Stopper(Callback):
    met = 0
    def meet(self, hook):
        if Path("stop").is_file() and not int(os.environ.get("LOCAL_RANK", "0")):
            name, count, *numbers = Path("stop").read_text().split()
            self.met += hook == name
            if self.met == int(count):
                Path("stop").unlink()
                for number in numbers:
                    os.kill(os.getpid(), int(number))

for hook in ("on_train_batch_start", "on_validation_batch_start", "on_test_batch_start"):
    setattr(Stopper, hook, lambda self, *_, hook=hook: self.meet(hook))

class Stopping(SampleSource):
    def articles(self, limit, held):
        for number, article in enumerate(super().articles(limit, held)):
            if number == 20:
                os.kill(os.getpid(), int(Path("stop").read_text()))
            yield article
"""
USER = "++callbacks.user._target_=stopper.Stopper"
QUICK = (USER, "evaluation=none", "trainer.max_epochs=2", "data.batch_size=8", "trainer.accumulate_grad_batches=2",
         "~callbacks.bleu_evaluation", "~callbacks.text_samples", "~logger.tensorboard")  # fmt: skip


@pytest.fixture(autouse=True)
def _stopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stopper.py").write_text(STOPPER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "stopper", raising=False)


def stop(hook: str, count: int, *numbers: signal.Signals) -> None:
    Path("stop").write_text(" ".join([hook, str(count), *(str(int(number)) for number in numbers)]))


def line_of(ended: Any, number: signal.Signals) -> str:
    """Check the manner in which a script was stopped; return its one line without the log."""
    assert ended.status == STATUS[number], ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert line.startswith("stopped: ")
    return str(line)


def weights(run: str) -> dict[str, torch.Tensor]:
    saved = read_checkpoint(Path(run, "checkpoints/last.ckpt"))
    assert saved["epoch"] == 1
    moments = saved["optimizer_states"][0]["state"]
    return {**saved["state_dict"], **{f"{key} {name}": moments[key][name] for key in moments for name in moments[key]}}


def test_a_run_that_was_stopped_anywhere_goes_on_by_the_command_that_it_shows(train: Run, run_script: Run) -> None:
    assert train(*QUICK, "hydra.run.dir=whole").status == 0
    stop("on_train_batch_start", 8, signal.SIGTERM)  # the second one of the two batches of a step
    shown = line_of(train(*QUICK, "hydra.run.dir=stopped"), signal.SIGTERM)
    last = Path("stopped/checkpoints/last.ckpt")
    assert shown == f"stopped: {last} is kept; to go on: python scripts/train.py resume=stopped"
    assert read_checkpoint(last)["global_step"] == 4

    command = shlex.split(shown.partition("scripts/train.py ")[2])
    stop("on_validation_batch_start", 1, signal.SIGINT)  # at once: the checkpoint stays that of before
    assert line_of(run_script("train", *command, USER), signal.SIGINT) == shown
    assert read_checkpoint(last)["global_step"] == 4

    ended = run_script("train", *command, USER)
    assert ended.status == 0, ended.stderr
    expected, actual = weights("whole"), weights("stopped")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not list(Path("stopped").rglob("*.tmp"))
    FileLock("stopped/.lock", timeout=0).acquire().lock.release()


def test_a_second_signal_ends_a_training_at_once(train: Run) -> None:
    stop("on_train_batch_start", 3, signal.SIGINT, signal.SIGINT)
    shown = line_of(train(*QUICK, "hydra.run.dir=run"), signal.SIGINT)
    assert "the same command begins again" in shown
    assert not Path("run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("script", ["train", "prepare"])
def test_a_signal_while_data_is_prepared_says_that_the_same_command_goes_on(
    run_script: Run, tiny: tuple[str, ...], script: str
) -> None:
    Path("stop").write_text(str(int(signal.SIGTERM)))
    settings = ("data.num_articles=60", "data.vocab_size=400", "paths.data_dir=data")
    ended = run_script(script, *settings, "data.source._target_=stopper.Stopping")
    assert "the same command begins again" in line_of(ended, signal.SIGTERM)
    assert not list(Path("outputs").glob("train/*"))
    assert not list(Path("data").rglob("*.tmp"))


def test_a_sweep_ends_with_the_run_that_was_stopped(train: Run) -> None:
    stop("on_train_batch_start", 4, signal.SIGTERM)
    ended = train(*QUICK, "seed=1,2", "hydra.sweep.dir=sweep", "-m")
    assert "to go on: python scripts/train.py resume=sweep/0" in line_of(ended, signal.SIGTERM)
    assert not Path("sweep/1").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="whether a signal is answered stands in /proc")
@pytest.mark.parametrize("number", STATUS)
def test_a_signal_while_a_script_starts_is_one_line(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts" / "train.py")], stderr=subprocess.PIPE, text=True)
    try:
        status = Path(f"/proc/{process.pid}/status")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
            if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
                break
            time.sleep(0.001)
        process.send_signal(number)
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, len(shown.splitlines())) == (STATUS[number], 1)
    assert "the same command begins again" in shown
    assert not list(Path().glob("outputs"))


def test_processes_that_share_a_run_end_together_and_leave_none(tiny: tuple[str, ...]) -> None:
    stop("on_train_batch_start", 4, signal.SIGTERM)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny, *QUICK, "trainer=ddp", "trainer.devices=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), "code"])}
    process = subprocess.Popen(
        [*command, "hydra.run.dir=run"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )
    others: set[psutil.Process] = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            others |= set(psutil.Process(process.pid).children(recursive=True))
        time.sleep(0.2)
    assert process.stderr
    shown = process.stderr.read()
    assert process.returncode == 143, shown
    assert [line for line in shown.splitlines() if line.startswith("stopped: ")] == [
        "stopped: run/checkpoints/last.ckpt is kept; to go on: python scripts/train.py resume=run"
    ]
    assert read_checkpoint("run/checkpoints/last.ckpt")["global_step"] == 2
    assert others
    _, left = psutil.wait_procs(others, timeout=10)
    assert not left


def test_a_text_that_is_being_written_can_be_stopped(run_folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), f"ckpt={run_folder}/checkpoints/best.ckpt"]
    process = subprocess.Popen(
        [*command, "max_new_tokens=100000", "seed=0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.read(2)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    _, said = shown.splitlines()  # after which checkpoint it took
    assert said.startswith(b"stopped: "), shown
