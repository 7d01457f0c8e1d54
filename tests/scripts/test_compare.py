import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVALUATION = ROOT / "tests" / "evaluation" / "example_evaluation.json"


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_sweep_becomes_a_table_on_the_terminal_and_in_files(tmp_path: Path) -> None:
    runs = [tmp_path / "outputs" / run for run in ("multirun/x/0", "multirun/x/1", "train/y")]
    for run in runs:
        (run / "evaluation").mkdir(parents=True)
    shutil.copy(EVALUATION, runs[0] / "evaluation" / "evaluation.json")
    (runs[1] / "evaluation" / "evaluation.json").write_text("{")
    result = compare(tmp_path)
    assert result.returncode == 0
    assert "Runs in outputs by test/bits_per_byte" in result.stdout
    assert "multirun/x/0" in result.stdout
    assert "not evaluated" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "outputs/multirun/x/1/evaluation/evaluation.json: damaged" in line
    assert {file.name for file in (tmp_path / "outputs" / "comparison").iterdir()} == {
        *("comparison.csv", "comparison.md", "comparison.html")
    }
    result = compare(tmp_path, "runs=outputs/multirun/*/0", "sort_by=test/accuracy", "output_dir=null")
    assert result.returncode == 0
    assert "Runs in outputs/multirun/x by test/accuracy" in result.stdout
    assert "comparison.md" not in result.stdout


def test_zero_runs_get_one_line_and_status_2(tmp_path: Path) -> None:
    result = compare(tmp_path, "runs=[nowhere,outputs/*]")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: runs=[nowhere, outputs/*]: no run there")
