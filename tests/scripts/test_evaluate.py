"""scripts/evaluate.py, and what scripts/train.py runs at its end."""

import contextlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import minillm
from minillm.corpus import SampleSource
from minillm.evaluation.schema import Evaluation

Run = Callable[..., Any]


def read(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def best(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Articles that the trained run did not read."""
    folder = tmp_path_factory.mktemp("texts")
    for article in list(SampleSource().articles(None, ()))[-5:]:
        (folder / f"{article.page_id}.txt").write_text(article.text, encoding="utf-8")
    return folder


def test_training_leaves_an_evaluation_in_the_schema_with_a_report(run_folder: Path, finished: Path) -> None:
    found = read(run_folder)
    keys = set(found) - {"sha256"}  # the file's seal, see `read_evaluation`
    assert Evaluation.__required_keys__ <= keys <= set(get_type_hints(Evaluation))
    assert found["schema"] == 1
    assert set(found["splits"]) == {"train", "val", "test"}
    assert (run_folder / "evaluation" / "report.html").stat().st_size > 10_000
    stdout = " ".join((finished / "stdout.txt").read_text(encoding="utf-8").split())
    assert f"{found['splits']['test']['perplexity']:,.2f}" in stdout
    for finding in found["findings"]:
        assert " ".join(finding.split()) in stdout


def test_a_short_trial_is_weak_and_not_red(run_folder: Path, finished: Path) -> None:
    found = read(run_folder)
    assert found["trustworthy"] is True
    assert found["audit"]["plausibility"]["verdict"] == "weak"  # of two epochs: behind a bigram model
    stdout = (finished / "stdout.txt").read_text(encoding="utf-8")
    assert "The figures are right, and the model is weak." in stdout
    assert "NOT TO BE TRUSTED" not in stdout


def test_the_evaluation_has_the_figures_that_training_logged(run_folder: Path, best: Path) -> None:
    logged = torch.load(best, weights_only=True)["metrics"]
    found = read(run_folder)
    for name in ("loss", "perplexity", "bits_per_byte", "accuracy"):
        assert found["splits"]["val"][name] == pytest.approx(logged[f"val/{name}"], rel=1e-5)


def test_evaluating_the_checkpoint_again_gives_the_same_figures(
    best: Path, run_folder: Path, run_script: Run, tmp_path: Path
) -> None:
    ended = run_script("evaluate", f"ckpt={best}", f"hydra.run.dir={tmp_path}", "evaluation.latency_runs=3")
    assert ended.status == 0, ended.stderr
    again, first = read(tmp_path), read(run_folder)
    for part in ("splits", "bias", "text", "overfitting", "baselines", "data", "plots"):
        assert again[part] == first[part], part
    assert (tmp_path / "evaluation" / "report.html").exists()


def test_other_text_is_the_test_split_and_is_said_to_be_other(
    best: Path, run_folder: Path, other: Path, run_script: Run, tmp_path: Path
) -> None:
    command = ("evaluate", f"ckpt={best}", "data=files", f"data.source.path={other}", "evaluation.latency_runs=3")
    ended = run_script(*command, f"hydra.run.dir={tmp_path}")
    assert ended.status == 0, ended.stderr
    found = read(tmp_path)
    assert found["data"]["other_text"] == str(other)
    assert "other text than the run's own" in " ".join(ended.stdout.split())
    assert found["data"]["articles"]["test"] == 5
    assert found["splits"]["train"] == read(run_folder)["splits"]["train"]
    texts = [text.read_text(encoding="utf-8") for text in sorted(other.iterdir())]
    cleaned = found["data"]["bytes"]["test"]
    assert 0.9 * len("".join(texts).encode()) < cleaned <= len("".join(texts).encode())
    scored = minillm.load(best).score(texts)  # the sample is clean already
    assert found["splits"]["test"]["bits_per_byte"] == pytest.approx(scored["bits_per_byte"], rel=0.01)


def test_the_own_data_named_again_is_not_other_text(best: Path, run_script: Run, tmp_path: Path) -> None:
    command = ("evaluate", f"ckpt={best}", "data=sample", "data.num_articles=60", "evaluation.latency_runs=3")
    ended = run_script(*command, f"hydra.run.dir={tmp_path}")
    assert ended.status == 0, ended.stderr
    assert read(tmp_path)["data"]["other_text"] is None


def test_an_untrustworthy_model_is_announced_as_such(run_script: Run, tmp_path: Path) -> None:
    ended = run_script(
        "train", "experiment=original_leak", "model.embedding_dim=32", "model.num_layers=1", "data.num_articles=60",
        "data.vocab_size=400", "data.max_length=64", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "callbacks.bleu_evaluation.max_articles=2", f"hydra.run.dir={tmp_path}",
        "evaluation.audit.inflation.unknown=1",
        "evaluation.latency_runs=3",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    assert "NOT TO BE TRUSTED" in ended.stdout
    found = read(tmp_path)
    assert found["trustworthy"] is False
    assert [name for name, check in found["audit"].items() if check["verdict"] == "fault"] == ["causality"]


def test_training_without_evaluation_leaves_none(run_script: Run, tmp_path: Path) -> None:
    ended = run_script(
        "train", "evaluation=none", "model.embedding_dim=32", "model.num_layers=1", "data.num_articles=60",
        "data.vocab_size=400", "data.max_length=64", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "callbacks.bleu_evaluation.max_articles=2", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    assert not (tmp_path / "evaluation").exists()
    assert "not audited" in ended.stdout


def refused(run_script: Run, *arguments: str) -> str:
    ended = run_script("evaluate", *arguments)
    assert ended.status == 2, ended.stdout + ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in ended.stderr
    return str(line)


def test_a_checkpoint_of_another_vocabulary_is_refused_in_one_line(best: Path, run_script: Run, tmp_path: Path) -> None:
    saved = torch.load(best, weights_only=True)
    bigger = {**saved["config"], "data": {**saved["config"]["data"], "vocab_size": 350}}
    torch.save({**saved, "config": bigger}, tmp_path / "changed.ckpt")
    line = refused(run_script, f"ckpt={tmp_path / 'changed.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert "another vocabulary" in line
    weights = {name: value[:-3] if value.dim() == 2 else value for name, value in saved["state_dict"].items()}
    torch.save({**saved, "state_dict": weights}, tmp_path / "cut.ckpt")
    assert "cut.ckpt" in refused(run_script, f"ckpt={tmp_path / 'cut.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.parametrize("place", ["data", "data.cleaning", "data.augmentation", "data.curriculum", "tokenizer"])
def test_a_checkpoint_cannot_make_evaluate_run_what_it_names(
    best: Path, run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "evil_on_import.py").write_text("open('ran', 'w').close()\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for target in (
        "os.mkdir",
        "evil_on_import.Net",
        "minillm.files.shutil.rmtree",
        "minillm.corpus.FilesSource",
        ["x"],
    ):
        saved = torch.load(best, weights_only=True)
        *parents, last = place.split(".")
        node = saved["config"]
        for parent in parents:
            node = node[parent]
        node[last] = {"_target_": target, "path": "ran"}
        torch.save(saved, "evil.ckpt")
        line = refused(run_script, "ckpt=evil.ckpt", "hydra.run.dir=run")
        assert "not one of miniLLM's classes" in line
    assert not Path("ran").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_checkpoint_cannot_make_evaluate_read_files_or_addresses(
    best: Path, run_script: Run, tmp_path: Path, known: bool
) -> None:
    saved = torch.load(best, weights_only=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/api.php"
        source = {"_target_": "minillm.corpus.WikipediaSource", "api_url": address, "titles": "/etc/passwd"}
        saved["config"]["data"]["source"] = source
        if not known:
            del saved["TextDataModule"]  # as in a checkpoint of an earlier version
        torch.save(saved, tmp_path / "evil.ckpt")
        command = (f"ckpt={tmp_path / 'evil.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}", "evaluation.latency_runs=3")
        if known:  # the text that it learned from is at hand: nobody asks where it came from
            ended = run_script("evaluate", *command)
            assert ended.status == 0, ended.stderr
            assert set(read(tmp_path / "run")["splits"]) == {"train", "val", "test"}
        else:
            assert "has a source that is not read again" in refused(run_script, *command)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_run_on_own_text_is_evaluated_on_what_was_prepared_of_it(
    train: Run, run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    for article in SampleSource().articles(30, ()):
        (texts / f"{article.title}.txt").write_text(article.text, encoding="utf-8")
    own = ("data=files", "data.num_articles=null", f"data.source.path={texts}")
    ended = train(*own, "hydra.run.dir=run", "evaluation=none")
    assert ended.status == 0, ended.stderr
    shutil.rmtree(texts)
    ended = run_script("evaluate", "ckpt=run/checkpoints/best.ckpt", "hydra.run.dir=again", "evaluation.latency_runs=3")
    assert ended.status == 0, ended.stderr
    assert set(read(Path("again"))["splits"]) == {"train", "val", "test"}
    line = refused(run_script, "ckpt=run/checkpoints/best.ckpt", "hydra.run.dir=third", "paths.data_dir=elsewhere")
    assert "is not in elsewhere any more: scripts/prepare.py with the run's settings prepares it" in line
    saved = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    for name in "../../../etc", "0" * 15, ["0" * 16], 7:
        torch.save({**saved, "TextDataModule": {"corpus": name}}, "evil.ckpt")
        assert "is not read again" in refused(run_script, "ckpt=evil.ckpt", "hydra.run.dir=third")


def test_text_without_articles_is_refused_in_one_line(best: Path, run_script: Run, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Muy corto.", encoding="utf-8")
    line = refused(
        run_script,
        f"ckpt={best}",
        "data=files",
        f"data.source.path={tmp_path / 'short.txt'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert "data.min_length" in line


def test_other_text_is_evaluated_where_the_training_text_is_gone(
    best: Path, other: Path, run_script: Run, tmp_path: Path
) -> None:
    saved = torch.load(best, weights_only=True)
    source = {"_target_": "minillm.corpus.FilesSource", "path": str(tmp_path / "gone")}
    saved["config"]["data"]["source"] = source
    saved["TextDataModule"]["corpus"] = 16 * "0"
    torch.save(saved, tmp_path / "moved.ckpt")
    with contextlib.chdir(tmp_path):
        ended = run_script("evaluate", "ckpt=moved.ckpt", "data=files", f"data.source.path={other}",
                           "hydra.run.dir=run", "evaluation.latency_runs=3")  # fmt: skip
    assert ended.status == 0, ended.stderr
    found = read(tmp_path / "run")
    assert set(found["splits"]) == {"test"}
    assert found["overfitting"] is None
    assert found["audit"]["contamination"]["verdict"] == "none"
