import bz2
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minillm.benchmarking import peers
from minillm.benchmarking.dumps import write_dump

Run = Callable[..., Any]
TINY = (
    "rounds=2",
    "data.num_articles=60",
    "data.vocab_size=400",
    "data.max_length=32",
    "data.batch_size=4",
    "model.embedding_dim=32",
    "model.num_layers=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "benchmark=quick",
    "benchmark.training.contestants=[minillm,minillm-data,transformers-float32]",
    "benchmark.training.steps=2",
    "benchmark.text.megabytes=0.02",
    "benchmark.text.vocab_size=400",
)


@pytest.fixture
def result(run_script: Run) -> dict[str, Any]:
    """What the whole benchmark leaves, at sizes that take seconds."""
    ended = run_script("benchmark", *TINY, "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    found: dict[str, Any] = json.loads(Path("run/benchmark.json").read_text(encoding="utf-8"))
    return {"stdout": ended.stdout, **found}


def test_one_command_measures_everything_and_leaves_figures_and_drawings(result: dict[str, Any]) -> None:
    shown = result.pop("stdout")
    parts = result["parts"]
    assert list(parts) == ["training", "decoding", "text"]
    for name in parts:
        assert name.capitalize() in shown
    with Image.open("run/benchmark.png") as drawing:
        assert min(drawing.size) > 500
    left = {path.name for path in Path("run").iterdir()} - {"benchmark.log", ".lock"}  # the log: what peer is missing
    assert left == {".hydra", "benchmark.json", "benchmark.png"}

    machine = result["machine"]
    assert machine["device"] == "cpu"
    fast = {"bfloat16": 2048} if machine["bfloat16"] else {}
    assert {dtype: peak["size"] for dtype, peak in machine["matmul"].items()} == {"float32": 2048, **fast}

    training = parts["training"]["contestants"]
    trained = training["minillm"]
    assert trained["parameters"] == 400 * 32 * 2 + 12 * 32 * 32 + 13 * 32 + 2 * 32
    assert len(trained["step_ms"]["values"]) == 2
    for speed, step in zip(trained["tokens_per_second"]["values"], trained["step_ms"]["values"], strict=True):
        assert speed * step == pytest.approx(1000 * 4 * 32)  # every place of the 4 x 32 is a target
    expected = trained["flops_per_token"] / machine["matmul"]["float32"]["flops"]
    assert trained["mfu"]["median"] == pytest.approx(trained["tokens_per_second"]["median"] * expected)
    assert trained["memory"]["training"] > 0

    if reason := peers.missing("transformers"):
        assert training["transformers-float32"] == {"skipped": reason}
        assert parts["decoding"]["contestants"]["transformers"] == {"skipped": reason}
        assert reason in " ".join(shown.split())  # whatever lines it was folded into
    else:
        assert training["transformers-float32"]["parameters"] == training["minillm"]["parameters"] + 32 * 32
        assert set(parts["training"]["speedup"]) == {"transformers-float32"}
        assert parts["decoding"]["token_ratio"]["transformers"]["median"] > 0
    assert set(parts["decoding"]["contestants"]["minillm"]["tokens_per_second"]) == {"1", "4"}
    assert all(speed["median"] > 0 for speed in parts["text"]["one_core"].values())
    assert 0 <= training["minillm-data"]["wait_share"]["median"] < 1


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("parts=[traning]", "parts=['traning']: there is no part traning; choose of training, decoding, text"),
        ("parts=[]", "parts=[]: measures nothing"),
        ("parts=training", "parts=training: must be list[str], not str"),
        ("rounds=0", "rounds=0: must be at least 1"),
        ("rounds=few", "rounds=few: must be int, not str"),
        ("benchmark.training.steps=0", "benchmark.training.steps=0: must be at least 1"),
        ("benchmark.training.contestants=[]", "benchmark.training.contestants=[]: nobody takes part"),
        ("benchmark.training.contestants=[gpt5]", "benchmark.training.contestants=['gpt5']: must be "),
        ("benchmark.decoding.prompts=[0]", "benchmark.decoding.prompts=[0]: must be numbers from 1 on"),
        ("benchmark.decoding.new_tokens=1", "benchmark.decoding.new_tokens=1: must be at least 2"),
        ("benchmark.text.megabytes=0", "benchmark.text.megabytes=0: must be over 0"),
        ("benchmark.text.vocab_size=9", "benchmark.text.vocab_size=9: must be at least 260"),
        ("benchmark.text.rounds=0", "benchmark.text.rounds=0: must be at least 1"),
        ("benchmark.text.dump=none.xml", "benchmark.text.dump=none.xml: is no file"),
        ("model.num_heads=3", "model.num_heads=3: must divide embedding_dim=256"),
        ("benchmark=fast", "benchmark=fast: is no choice; one of ablation, full, quick would do"),
    ],
)
def test_a_setting_that_cannot_work_is_named_before_anything_is_measured(
    run_script: Run, setting: str, says: str
) -> None:
    ended = run_script("benchmark", setting)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {says}")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(Path().rglob("benchmark.*"))


def quality(*overrides: str) -> tuple[str, ...]:
    return ("parts=[quality]", "benchmark=quick", "~benchmark.quality.experiments.baseline_gpt2", *overrides)


def test_quality_trains_for_the_given_time_and_tests_on_the_way(run_script: Run) -> None:
    small = (
        '"tokenizer=bpe","data.num_articles=60","data.vocab_size=400","data.max_length=32","model.embedding_dim=32",'
        '"model.num_layers=1","trainer.accelerator=cpu","trainer.precision=32-true","optimizer.lr=0.01"'
    )
    rows = (f"benchmark.quality.common=[{small}]", 'benchmark.quality.experiments.modern=["data.batching=packed"]')
    ended = run_script("benchmark", *quality(*rows), "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    found = json.loads(Path("run/benchmark.json").read_text(encoding="utf-8"))["parts"]["quality"]
    [curve] = found["curves"]["modern"]
    half, whole = curve["steps"]
    assert whole == 2 * half
    assert 0 < curve["seconds"][0] < curve["seconds"][1] < 10 * found["seconds"]
    # It learns, and in so short a time not much: a uniform guess costs log2(400) bits per token, of a few bytes each.
    assert 8 > curve["bits_per_byte"][0] > curve["bits_per_byte"][1] > 1
    assert "modern" in ended.stdout


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("benchmark.quality.seconds=0", "benchmark.quality.seconds=0: must be over 0, such as 180"),
        ("benchmark.quality.tests=0", "benchmark.quality.tests=0: must be at least 1"),
        ("benchmark.quality.seeds=[]", "benchmark.quality.seeds=[]: must name at least one, such as [0]"),
        (
            'benchmark.quality.common=["model=nope"]',
            "modern: scripts/train.py: error: model=nope: is no choice; one of gpt2, minigpt",
        ),
    ],
)
def test_quality_refuses_what_cannot_be_trained(run_script: Run, override: str, line: str) -> None:
    ended = run_script("benchmark", *quality(override), "hydra.run.dir=run")
    assert ended.status != 0
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr


def test_corpus_costs_are_measured_on_a_dump(run_script: Run) -> None:
    network = (
        '"model.embedding_dim=32","model.num_layers=1","data.max_length=32","data.batch_size=4",'
        '"trainer.accelerator=cpu","trainer.precision=32-true","evaluation.max_tokens=2000",'
        '"evaluation.latency_runs=2","evaluation.max_articles=4","evaluation.max_new_tokens=4"'
    )
    rows = (
        "benchmark.corpus.pages=[200]",
        'benchmark.corpus.common=["tokenizer=bpe","data.vocab_size=400"]',
        f"benchmark.corpus.training=[{network}]",
    )
    ended = run_script("benchmark", "parts=[corpus]", "benchmark=quick", *rows, "hydra.run.dir=run")
    assert ended.status == 0, ended.stderr
    found = json.loads(Path("run/benchmark.json").read_text(encoding="utf-8"))["parts"]["corpus"]
    [size] = found["sizes"]
    assert 170 < size["articles"] < 196  # no redirects, no near copies
    for cost in size["one_file"], size["in_parts"]:
        assert cost["mb_per_second"] * cost["seconds"] == pytest.approx(size["xml_mb"])
        assert 50 < cost["peak_mib"] < 4000
        assert cost["cpu_seconds"] > 0
    assert size["evaluation_seconds"] > 0
    assert f"{size['articles']}" in ended.stdout
    with Image.open("run/benchmark.png") as drawing:
        assert min(drawing.size) > 300


def test_dumps_grow_with_their_pages_and_are_the_same_in_parts(tmp_path: Path) -> None:
    one, same, parts = tmp_path / "a.xml.bz2", tmp_path / "b.xml.bz2", [tmp_path / f"{n}.xml.bz2" for n in range(3)]
    size = write_dump([one], 600)
    assert 1.7 < size / write_dump([tmp_path / "half.xml.bz2"], 300) < 2.3
    assert write_dump([same], 600) == size == len(bz2.decompress(one.read_bytes()))
    assert one.read_bytes() == same.read_bytes()
    write_dump(parts, 600)

    def pages(*files: Path) -> list[str]:
        return re.findall(
            "<page>.*?</page>", "".join(bz2.decompress(f.read_bytes()).decode() for f in files), re.DOTALL
        )

    assert pages(*parts) == pages(one)
    assert len(pages(one)) == 600
    assert 10 < sum("<redirect" in page for page in pages(one)) < 45


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("benchmark.corpus.pages=[]", "benchmark.corpus.pages=[]: must be sizes from 100 on"),
        ("benchmark.corpus.parts=1", "benchmark.corpus.parts=1: must be at least 2, such as 4"),
        ("benchmark.corpus.steps=-1", "benchmark.corpus.steps=-1: must be at least 1, such as 20"),
        (
            'benchmark.corpus.common=["tokenizer=nope"]',
            "scripts/prepare.py: error: tokenizer=nope: is no choice; one of bpe, word would do",
        ),
    ],
)
def test_corpus_costs_refuse_what_cannot_be_prepared(run_script: Run, override: str, line: str) -> None:
    ended = run_script("benchmark", "parts=[corpus]", "benchmark=quick", override, "hydra.run.dir=run")
    assert ended.status != 0
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr
