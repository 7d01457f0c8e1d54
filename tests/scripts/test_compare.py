import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVALUATION = Path(__file__).parents[1] / "evaluation" / "example_evaluation.json"

RunScript = Callable[..., Any]


def test_a_sweep_becomes_a_table_on_the_terminal_and_in_files(run_script: RunScript, tmp_path: Path) -> None:
    runs = [tmp_path / "outputs" / run for run in ("multirun/x/0", "multirun/x/1", "train/y")]
    for run in runs:
        (run / "evaluation").mkdir(parents=True)
    shutil.copy(EVALUATION, runs[0] / "evaluation" / "evaluation.json")
    (runs[2] / "metrics.csv").write_text("step,val/loss\n9,5.5\n")
    (runs[1] / "evaluation" / "evaluation.json").write_text("{")
    with contextlib.chdir(tmp_path):
        result = run_script("compare")
    assert result.status == 0
    assert "Runs in outputs by test/bits_per_byte" in result.stdout
    assert "multirun/x/0" in result.stdout
    assert "not evaluated" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "outputs/multirun/x/1/evaluation/evaluation.json: damaged" in line
    assert {file.name for file in (tmp_path / "outputs" / "comparison").iterdir()} == {
        *("comparison.csv", "comparison.md", "comparison.html")
    }
    with contextlib.chdir(tmp_path):
        result = run_script("compare", "runs=outputs/multirun/*/0", "sort_by=test/accuracy", "output_dir=null")
    assert result.status == 0
    assert "Runs in outputs/multirun/x by test/accuracy" in result.stdout
    assert "comparison.md" not in result.stdout


def test_zero_runs_get_one_line_and_status_2(run_script: RunScript, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        result = run_script("compare", "runs=[nowhere,outputs/*]")
    assert result.status == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: runs=[nowhere, outputs/*]: no run there")


def test_a_figure_that_no_evaluation_has_is_refused_even_where_none_was_made(
    run_script: RunScript, tmp_path: Path
) -> None:
    (tmp_path / "outputs" / "train" / "y" / "checkpoints").mkdir(parents=True)
    with contextlib.chdir(tmp_path):
        for setting in "sort_by=foo", "metrics=[test/los]":
            result = run_script("compare", setting)
            assert result.status == 2
            (line,) = result.stderr.splitlines()
            assert line.startswith(f"error: {setting.replace('[', '').replace(']', '')}: no run has this figure; there")
        assert run_script("compare", "failed=true").status == 0
