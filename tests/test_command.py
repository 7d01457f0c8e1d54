import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "minillm", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def test_the_command_shows_the_scripts_page_and_names_itself_in_it(tmp_path: Path) -> None:
    shown = command("generate", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "minillm generate prompt=" in shown.stdout
    assert "scripts/generate.py" not in shown.stdout


@pytest.mark.parametrize(("words", "named"), [(("nothing",), "train"), (("train", "model=nothing"), "minigpt")])
def test_a_mistake_ends_with_status_2_and_what_would_do(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    ended = command(*words, cwd=tmp_path)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_wheel_has_every_package() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "minillm").rglob("__init__.py")}
    assert {*setup["packages"]} == found | {*setup["package-dir"]} - {""}
