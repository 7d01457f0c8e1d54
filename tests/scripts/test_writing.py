"""scripts/generate.py with many prompts, several texts, JSON lines and a prompt of its own."""

import contextlib
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import minillm
from minillm.evaluation.evaluation import write_evaluation
from minillm.evaluation.results import read_evaluation
from minillm.generation import Sampling
from minillm.language_model import LanguageModel
from minillm.writing import Writing

Run = Callable[..., Any]
ROOT = Path(__file__).parent.parent.parent
SAMPLING = Sampling(temperature=0.8, top_p=0.9)  # as in conf/generate.yaml
PROMPTS = ["La ciudad de", "El agua", "En el año 1492, el rey de España"]


@pytest.fixture
def write(run_script: Run, run_folder: Path) -> Run:
    """Run scripts/generate.py on the trained run's best checkpoint, for eight tokens per text."""
    ckpt = f"ckpt={run_folder}/checkpoints/best.ckpt"
    return lambda *words: run_script("generate", ckpt, "max_new_tokens=8", "seed=3", *words)


def alone(model: LanguageModel, prompt: str, seed: int) -> str:
    """Return what a prompt gives by itself."""
    return "".join(model.stream(prompt, 8, SAMPLING, seed))


def records(text: str) -> list[dict[str, Any]]:
    """Return what JSON lines hold."""
    return [json.loads(line) for line in text.splitlines()]


def test_several_texts_of_one_prompt_are_told_apart_and_each_has_the_next_seed(
    write: Run, trained: LanguageModel
) -> None:
    ended = write("prompt=El agua", "n=3")
    assert ended.status == 0, ended.stderr
    assert ended.stdout == "\n".join(alone(trained, "El agua", seed) + "\n" for seed in (3, 4, 5))


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_lines_of_a_file_are_continued_each_as_alone_whatever_the_batch(
    write: Run, trained: LanguageModel, batch_size: int
) -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS) + "\n\n", encoding="utf-8")
    ended = write("prompts_file=prompts.txt", "n=2", f"batch_size={batch_size}", "output=out.jsonl")
    assert (ended.status, ended.stdout) == (0, ""), ended.stderr
    expected = [
        (prompt, seed)
        for prompt, seed in zip(sorted([*PROMPTS, *PROMPTS], key=PROMPTS.index), range(3, 9), strict=True)
    ]
    written = records(Path("out.jsonl").read_text(encoding="utf-8"))
    assert written == [{"prompt": p, "text": alone(trained, p, seed), "seed": seed} for p, seed in expected]


def test_prompts_are_piped_in_and_texts_piped_out(
    write: Run, trained: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.TextIOWrapper(io.BytesIO("\n".join(PROMPTS).encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", piped)
    ended = write("prompts_file=-", "output=-")
    assert [record["text"] for record in records(ended.stdout)] == [
        alone(trained, prompt, seed) for seed, prompt in enumerate(PROMPTS, 3)
    ]


def test_a_prompt_that_cannot_be_continued_is_named_and_the_others_are_written(
    write: Run, trained: LanguageModel
) -> None:
    Path("prompts.txt").write_text(f"El agua\n{'hola ' * 100}\nLa ciudad de\n", encoding="utf-8")
    ended = write("prompts_file=prompts.txt", "output=out.jsonl")
    assert ended.status == 2
    assert "prompts.txt:2; 1 without a text" in ended.stderr.splitlines()[-1]
    first, second, third = records(Path("out.jsonl").read_text(encoding="utf-8"))
    assert (first["text"], third["text"]) == (alone(trained, "El agua", 3), alone(trained, "La ciudad de", 4))
    assert "the model's context only 64" in second["error"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prompts_file=none.txt"], "prompts_file=none.txt: cannot be read: No such file"),
        (["prompts_file=."], "prompts_file=.: cannot be read: Is a directory"),
        (["prompts_file=latin.txt"], "prompts_file=latin.txt: is not UTF-8 (byte 0xf1, after line "),
        (["n=0"], "n=0: must be from 1 to 1,000,000"),
        (["batch_size=0"], "batch_size=0: must be from 1 to 4,096"),
        (["interactive=true", "prompts_file=latin.txt"], "interactive=True: takes what is typed"),
        (["output=missing/out.jsonl"], "missing"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_no_file(write: Run, words: list[str], says: str) -> None:
    Path("latin.txt").write_bytes("año\n".encode("latin-1"))
    ended = write(*words, *([] if "output" in words[-1] else ["output=out.jsonl"]))
    assert ended.status == 2
    assert says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert [path.name for path in Path().iterdir()] == ["latin.txt"]


def test_it_says_on_stderr_which_checkpoint_it_took_and_how_good_it_is(
    run_script: Run, run_folder: Path, tmp_path: Path
) -> None:
    evaluation = read_evaluation(run_folder)
    assert evaluation is not None
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in "best", "last":
        source = run_folder / "checkpoints" / f"{name}.ckpt"
        (tmp_path / "run" / "checkpoints" / f"{name}.ckpt").write_bytes(source.read_bytes())

    def said(name: str) -> str:
        ended = run_script("generate", f"ckpt=run/checkpoints/{name}.ckpt", "max_new_tokens=1")
        return str(ended.stderr.splitlines()[0])  # what the prompt's unknown words are comes after it

    val, test = (evaluation["splits"][split]["bits_per_byte"] for split in ("val", "test"))
    assert said("best").endswith("bits per byte, not evaluated")
    write_evaluation(evaluation, tmp_path / "run")
    assert said("best").startswith("run/checkpoints/best.ckpt: MiniGPT, 38,368 parameters, word vocabulary of 400, ")
    assert f"; val {val:.3f}, test {test:.3f} bits per byte; " in said("best")
    assert f"{evaluation['data']['unk_rate']['test']:.0%} of the test words are [UNK]" in said("best")
    assert "not evaluated" in said("last")  # the evaluation is of the best one
    write_evaluation({**evaluation, "trustworthy": False, "findings": ["It sees the future."]}, tmp_path / "run")
    assert said("best").endswith("; NOT TO BE TRUSTED: It sees the future.")


def test_a_session_remembers_its_settings_and_survives_mistakes(
    write: Run, trained: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["El agua", "/temperature 0", "El agua", "/temprature 1", "/top_k -3", "/n 2", "", "La ciudad de"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*typed, "/settings"]) + "\n"))
    ended = write("interactive=true")
    greedy = {prompt: trained.generate(prompt, 8, temperature=0) for prompt in PROMPTS}
    texts = [alone(trained, "El agua", 3), greedy["El agua"], greedy["La ciudad de"], "", greedy["La ciudad de"]]
    assert (ended.status, ended.stdout) == (0, "".join(f"{text}\n" for text in texts))
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: /temprature=1: there is no such setting; did you mean /temperature?",
        "error: top_k=-3: must be at least 1, such as 50, or null for all tokens",
    ]
    assert "/temperature 0 " in ended.stderr
    assert "/n 2" in ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("key", [b"\x04"])
def test_at_a_terminal_a_session_ends_quietly_with_ctrl_d(run_folder: Path, key: bytes) -> None:
    main, side = pty.openpty()
    ckpt = f"ckpt={run_folder}/checkpoints/best.ckpt"
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), ckpt, "interactive=true", "max_new_tokens=4"]
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, start_new_session=True, preexec_fn=_own)
    os.close(side)
    shown = _until(main, b"> ")
    os.write(main, b"El agua\r")
    shown += _until(main, b"\n> ")
    for _ in range(60):  # the editor of the line does not hear a key that comes while it begins
        os.write(main, key)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(1) == 0
            break
    shown += _until(main, None)
    text = shown.decode()
    assert "El agua" in text
    assert "/temperature 0.7" in text
    assert "stopped" not in text
    assert "Traceback" not in text
    os.close(main)


def _own() -> None:
    """Make the pseudo-terminal the process's own, so that its keys send signals."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until(main: int, mark: bytes | None) -> bytes:
    """Read what a terminal shows up to a mark; None: to its end."""
    shown, end = b"", time.monotonic() + 120
    while (mark is None or mark not in shown) and time.monotonic() < end:
        if select.select([main], [], [], 1)[0]:
            try:
                piece = os.read(main, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not piece:
                break
            shown += piece
    return shown


def test_memory_does_not_grow_with_the_number_of_prompts(trained: LanguageModel) -> None:
    writing = Writing(trained, Sampling(temperature=0), max_new_tokens=1, seed=0)
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield "here", f"El agua {taken}"

    texts = writing.texts(endless())
    list(islice(texts, 64))
    tracemalloc.start()
    list(islice(texts, 32))
    before = tracemalloc.get_traced_memory()[0]
    for _ in islice(texts, 640):
        pass
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= 64 + 32 + 640 + writing.batch_size
    assert grown < 100_000


def test_python_finds_load_and_the_newest_run_and_shows_what_a_model_is(
    finished: Path, run_folder: Path, trained: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"load", "LanguageModel"} <= set(dir(minillm))
    monkeypatch.chdir(finished)
    latest = minillm.load("latest", device="cpu")
    assert latest.metrics == trained.metrics
    assert repr(latest) == (
        "<LanguageModel: MiniGPT, 38,368 parameters, word vocabulary of 400, 64 tokens of context; "
        f"val {trained.metrics['val/bits_per_byte']:.3f} bits per byte; on cpu>"
    )
