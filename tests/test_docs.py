"""README and docs/: commands that run, two languages that say the same, a site without dead links."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.corpus import SampleSource
from tests.documents import PAGES, ROOT, blocks, commands, script_and_arguments

Run = Callable[..., Any]

PLACEHOLDER = r"\.\.\.|\[[a-z.]+=|<|\bmodule:function|outputs/multirun/x|DIR_OR_HUB_ID|\bFILE\b"
# What keeps a command from being run here. Its settings are looked at all the same.
NEEDS = {
    PLACEHOLDER: "something of the reader's in its place",
    r"data=(wikipedia|hub)|curl|hub_id": "the internet",
    r"data=dump|DUMP|dump/": "a dump",
    r"slurm|sbatch|srun|scontrol|squeue": "a cluster",
    r"\bray\b": "Ray",
    r"trainer=(gpu|ddp|fsdp)|torchrun|nvidia": "several processes or a GPU; tests/scripts/test_ddp.py",
    r"benchmark\.py": "minutes of a machine of its own; tests/scripts/test_benchmark.py",
    r"pip install|python3 -m venv|python -m llama_cpp|lm_eval|transformers serve|my_task": "other programs",
    r"demo\.py|tensorboard|chromium|interactive=true": "somebody who looks at it; tests/evaluation/test_browser.py",
    r"minigpt_modern_large": "a GPU",
    r"format=(gguf|onnx|harness)": "its libraries; tests/export/",
    r"resume=": "a training with a break; tests/scripts/test_resume.py",
    r"init_from=": "a model to start from; tests/scripts/test_train.py",
    r"budget=": "the minutes that it says",
    r" -m |sweep=|outputs/multirun": "many trainings; tests/scripts/test_sweeps.py",
    r"^(?!(PYTHONPATH=\. )?python scripts/)": "more of the shell than a call of a script",
}
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
RUN = [command for command in COMMANDS if not any(re.search(pattern, command) for pattern in NEEDS)]
# Those with something of the reader's in its place are no settings.
LOOKED_AT = [
    command
    for command in COMMANDS
    if command not in RUN and script_and_arguments(command) and not re.search(PLACEHOLDER, command)
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [article.text for article in SampleSource().articles(60, ())]


@pytest.fixture
def desk(tmp_path: Path, finished: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages suppose: a run, texts, prompts, and the files that extending.md shows."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    (tmp_path / "texts").mkdir()
    (tmp_path / "my_texts").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "my_texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    lines = "\n".join(json.dumps({"content": text}) for text in texts)
    (tmp_path / "texts" / "texts.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "book.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "poems.txt").write_text("\n***\n".join(texts), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("El agua\nLa ciudad de\n", encoding="utf-8")
    for block in blocks(ROOT / "docs" / "extending.md"):
        if block.language in ("python", "yaml"):
            path = tmp_path / block.code.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_pages_runs(command: str, desk: Path, run_script: Run, tiny: tuple[str, ...]) -> None:
    call = script_and_arguments(command)
    assert call is not None
    name, arguments = call
    ended = run_script(name, *arguments, *(tiny if name == "train" else ()))
    assert ended.status == 0, ended.stderr
    if "weight_norm" in command:
        assert any("train/weight_norm" in path.read_text() for path in desk.rglob("metrics.csv"))
    if "MyAudit" in command:
        assert "0 weights are not finite numbers." in ended.stdout


@pytest.mark.parametrize("command", LOOKED_AT)
def test_the_settings_of_a_command_that_needs_more_exist(command: str, desk: Path, run_script: Run) -> None:
    call = script_and_arguments(command)
    assert call is not None
    name, arguments = call
    arguments = [
        word for word in arguments if word not in ("-m", "&") and not word.startswith(("resume=", "init_from="))
    ]
    if "-m" in call[1]:  # of the values to be tried, the first
        arguments = [re.sub(r"^([^\['\"{]+?),.*", r"\1", word) for word in arguments]
    ended = run_script(name, *arguments, "--cfg", "job")
    assert ended.status == 0, ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.code)


def test_the_python_of_readme_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = [block for block in blocks(ROOT / "README.md") if block.language == "python"]
    exec(compile(block.code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("En el año 1492,")
    assert "bits_per_byte" in shown


def test_both_readmes_are_a_page_with_the_same_commands_and_figures() -> None:
    english, spanish = (ROOT / name for name in ("README.md", "README.es.md"))
    assert commands(english) == commands(spanish)
    inline = [Counter(re.findall(r"`[^`\n]+`", page.read_text(encoding="utf-8"))) for page in (english, spanish)]
    assert inline[0] == inline[1]
    figures = [Counter(re.findall(r"\d+(?:\.\d+)*", page.read_text(encoding="utf-8"))) for page in (english, spanish)]
    assert figures[0] == figures[1]
    for page in english, spanish:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the pages, built as CI builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def build(root: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        root / ".ci" / "mkdocs.yml",
        "-d",
        folder,
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_site_has_every_page_and_opens_nothing_that_is_elsewhere(site: Path) -> None:
    for page in PAGES:
        name = {"README.md": "", "README.es.md": "es"}.get(page.name, page.stem)
        assert (site / name / "index.html").is_file()
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        # A link may lead away; what the browser fetches by itself may not.
        assert not re.search(r"<(?:script|img|iframe|source)[^>]* src=\"?(?:https?:)?//", html), page
        assert not re.search(r"<link[^>]* href=\"?(?:https?:)?//(?!squidfunk)", html), page
        assert 'class="mermaid"' not in html, f"{page}: Material fetches Mermaid from elsewhere"
        assert 'data-md-component="source"' not in html, f"{page}: Material asks the repository's server for its stars"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.parametrize("link", ["no_page.md", "audit.md#no-such-place"])
def test_a_dead_link_ends_the_build(tmp_path: Path, link: str) -> None:
    for name in ".ci", "docs":
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in PAGES[:2]:
        shutil.copy(path, tmp_path)
    with (tmp_path / "docs" / "speed.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[more]({link})\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert link in built.stderr
