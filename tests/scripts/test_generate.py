import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.generation import Sampling
from minillm.language_model import LanguageModel

Run = Callable[..., Any]
ROOT = Path(__file__).parent.parent.parent
SAMPLING = Sampling(temperature=0.8, top_p=0.9)  # as in conf/generate.yaml


def test_the_prompt_and_its_continuation_are_written(run_script: Run, run_folder: Path, trained: LanguageModel) -> None:
    ckpt = f"ckpt={run_folder}/checkpoints/best.ckpt"
    ended = run_script("generate", ckpt, "prompt=La ciudad", "seed=1", "max_new_tokens=12")
    assert ended.status == 0
    assert ended.stdout == "".join(trained.stream("La ciudad", 12, SAMPLING, 1)) + "\n"
    assert (
        ended.stderr.splitlines()[1:] == (trained.notice("La ciudad") or "").splitlines()
    )  # after the checkpoint's line
    greedy = run_script("generate", ckpt, "prompt=La ciudad", "sampling.temperature=0", "max_new_tokens=12")
    assert greedy.stdout == trained.generate("La ciudad", 12, temperature=0) + "\n"
    assert not list(Path().iterdir())  # a script that only shows something leaves nothing


@pytest.mark.parametrize(
    "prompt",
    [
        "En el año 1492, Colón",
        "¿Qué es {esto}, [un] (libro)?",
        "Dijo: \"sí\", y 'no'",
        "a=b; $c ${d} \\ e\\' %f #g",
        "null",
        "1492",
        "'entre comillas'",
        "dos\nlíneas",
    ],
)
def test_any_text_can_be_a_prompt_without_further_quotes(
    run_script: Run, run_folder: Path, trained: LanguageModel, prompt: str
) -> None:
    ended = run_script(
        "generate", f"ckpt={run_folder}/checkpoints/best.ckpt", f"prompt={prompt}", "seed=1", "max_new_tokens=3"
    )
    meant = prompt.strip("'") if prompt.startswith("'") else prompt
    assert ended.stdout == "".join(trained.stream(meant, 3, SAMPLING, 1)) + "\n", ended.stderr


def test_the_newest_run_is_taken_when_none_is_named(run_script: Run, run_folder: Path) -> None:
    ended = run_script("generate")
    assert ended.status == 2
    assert ended.stderr.startswith("error: ckpt=latest: no run under outputs has a checkpoint")
    for age, place in (100, "train/old"), (50, "multirun/sweep/3"), (10, "train/new"):
        folder = Path("outputs") / place / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").write_bytes(b"broken")
        os.utime(folder / "best.ckpt", (1e9 - age, 1e9 - age))
    assert "train/new" in run_script("generate").stderr
    shutil.rmtree("outputs/train/new")
    assert "multirun/sweep/3" in run_script("generate").stderr
    shutil.copy(run_folder / "checkpoints" / "best.ckpt", "outputs/train/old/checkpoints/best.ckpt")
    os.utime("outputs/train/old/checkpoints/best.ckpt", (1e9, 1e9))
    assert run_script("generate", "max_new_tokens=2").stdout.startswith("En el año 1492,")


def test_the_text_comes_as_it_is_generated_and_ends_with_a_line(finished: Path, trained: LanguageModel) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), "prompt=El río", "seed=2", "max_new_tokens=40"]
    ended = subprocess.run(command, cwd=finished, capture_output=True, text=True, encoding="utf-8", check=False)
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[1:] == (trained.notice("El río") or "").splitlines()
    assert ended.stdout == "".join(trained.stream("El río", 40, SAMPLING, 2)) + "\n"
