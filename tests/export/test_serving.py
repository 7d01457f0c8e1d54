import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import run_of

from minillm.corpus import SampleSource
from minillm.export import export
from minillm.export.gguf import Gguf
from minillm.export.transformers import Transformers
from minillm.tokenization import BPETokenizer

PROMPT = "En el año 1492,"
SECONDS = 120  # to start, on a machine that has other work


@pytest.fixture(scope="module")
def model() -> Any:
    tokenizer = BPETokenizer()
    tokenizer.fit((article.text for article in SampleSource().articles(40, ())), 400)
    return run_of("minigpt_modern", tokenizer)


@contextlib.contextmanager
def server(command: Callable[[int], list[str]], log: Path) -> Iterator[Callable[[dict[str, Any]], str]]:
    """Start a server on a free port, and end it; what it yields asks for the completion of a prompt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def complete(request: dict[str, Any]) -> str:
        body = json.dumps({"prompt": PROMPT, "max_tokens": 8, "temperature": 0, **request}).encode()
        address = f"http://127.0.0.1:{port}/v1/completions"
        asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        end = time.monotonic() + SECONDS
        while True:
            try:
                with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
                    return str(json.load(answer)["choices"][0]["text"])
            except urllib.error.HTTPError as error:
                raise AssertionError(f"{error}: {error.read().decode()}") from error
            except OSError:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < end, log.read_text(encoding="utf-8")
                time.sleep(0.2)

    with log.open("w") as output, subprocess.Popen(command(port), stdout=output, stderr=output) as process:
        try:
            yield complete
        finally:
            process.kill()


def whole(text: str) -> str:
    """Return a text without the bytes that are no character: what weights that are drawn write has some."""
    return text.replace("\N{REPLACEMENT CHARACTER}", "")


def test_transformers_serve_completes_a_prompt_as_the_model_does(model: Any, tmp_path: Path) -> None:
    for name in ("accelerate", "fastapi", "openai", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -e '.[serving]'")
    folder = export(model, Transformers(), tmp_path / "model")

    def command(port: int) -> list[str]:
        start = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
        return [sys.executable, "-c", start, "serve", str(folder), "--port", str(port), "--device", "cpu"]

    with server(command, tmp_path / "log.txt") as complete:
        text = complete({"model": str(folder)})
    assert whole(PROMPT + text) == whole(model.model.generate(PROMPT, max_new_tokens=8, temperature=0))


def test_llama_cpp_server_completes_a_prompt_as_the_model_does(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: it builds for minutes")
    for name in ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'llama-cpp-python[server]'")
    path = export(model, Gguf(), tmp_path / "model") / "model.gguf"

    def command(port: int) -> list[str]:
        options = ["--model", str(path), "--n_ctx", "32", "--port", str(port)]
        return [sys.executable, "-m", "llama_cpp.server", *options]

    with server(command, tmp_path / "log.txt") as complete:
        text = complete({"repeat_penalty": 1.0, "logit_bias": {"0": -100, "1": -100, "2": -100}})
    assert whole(PROMPT + text) == whole(model.model.generate(PROMPT, max_new_tokens=8, temperature=0))
