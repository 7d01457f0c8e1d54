import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from minillm.corpus import SPLITS, Cleaner
from minillm.corpus.split import uniform
from minillm.data import TextDataModule
from minillm.errors import OutsideError, SettingError
from minillm.tokenization import BOS, EOS, PAD, BPETokenizer, WordTokenizer

MakeData = Callable[..., TextDataModule]
PREPARE = """
import sys
from minillm.corpus import Cleaner, DuplicateFilter, QualityFilter, SampleSource
from minillm.data import TextDataModule
from minillm.tokenization import WordTokenizer

data = TextDataModule(
    SampleSource(),
    Cleaner(),
    QualityFilter(),
    DuplicateFilter(),
    WordTokenizer(),
    num_articles=60,
    data_dir=sys.argv[1],
)
print("ready", flush=True)
sys.stdin.readline()
data.prepare_data()
data.setup()
print(data.folder.name, len(data.tokenizer), data.splits["train"].num_targets)
"""


def on_disk(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".lock"}


def test_the_splits_are_the_corpus_encoded_by_a_tokenizer_that_saw_the_training_split_alone(
    data: TextDataModule,
) -> None:
    tokenizer = WordTokenizer()
    tokenizer.fit(data.corpus.articles("train")["text"], 400)
    assert data.tokenizer.to_json() == tokenizer.to_json()
    for name in SPLITS:
        texts = list(data.corpus.articles(name)["text"])
        assert [ids.tolist() for ids in data.splits[name]] == [[BOS, *tokenizer.encode(text), EOS] for text in texts]
        assert data.splits[name].page_ids.tolist() == list(data.corpus.articles(name)["page_id"])


def test_the_manifest_says_what_the_dataset_was_made_from(data: TextDataModule) -> None:
    assert data.manifest == json.loads((data.folder / "manifest.json").read_text(encoding="utf-8"))
    assert data.manifest["fingerprint"] == data.folder.name
    assert data.manifest["tokenizer"] == {"kind": "word", "version": WordTokenizer.VERSION, "vocab_size": 400}
    assert data.manifest["corpus"] == data.corpus.manifest
    assert data.manifest["splits"] == {name: data.splits[name].describe() for name in SPLITS}
    assert (
        sum(split["articles"] for split in data.manifest["splits"].values()) == data.corpus.manifest["funnel"]["kept"]
    )
    assert WordTokenizer.load(data.folder / "tokenizer.json").to_json() == data.tokenizer.to_json()


def test_preparing_twice_does_the_work_once(make_data: MakeData, tmp_path: Path) -> None:
    make_data(data_dir=tmp_path).prepare_data()
    before = on_disk(tmp_path)
    again = make_data(data_dir=tmp_path)
    again.prepare_data()
    again.prepare_data()
    again.setup()
    assert {path for path in before if path.suffix == ".arrow"}
    assert {path: time for path, time in on_disk(tmp_path).items() if path.is_file() and path.suffix != ".sqlite"} == {
        path: time for path, time in before.items() if path.is_file() and path.suffix != ".sqlite"
    }


def test_two_processes_that_prepare_at_once_leave_one_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    [folder] = [path for path in (tmp_path / "encoded").iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "manifest.json",
        "test.arrow",
        "tokenizer.json",
        "train.arrow",
        "val.arrow",
    ]


def test_the_fingerprint_changes_with_all_that_the_dataset_depends_on_and_with_nothing_else(
    make_data: MakeData, data: TextDataModule
) -> None:
    def name(**settings: Any) -> str:
        return make_data(**settings).folder.name

    assert name() == data.folder.name
    assert name(batch_size=3, num_workers=2, max_length=32, batching="packed", seed=5) == data.folder.name
    others: list[dict[str, Any]] = [
        {"vocab_size": 401},
        {"tokenizer": BPETokenizer()},
        {"cleaning": Cleaner(quotes=False)},
        {"num_articles": 61},
        {"min_length": 1500},
        {"split": [0.6, 0.2, 0.2]},
    ]
    assert len({data.folder.name, *(name(**settings) for settings in others)}) == 1 + len(others)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_evaluation_reads_the_same_tokens_whatever_the_training_does(
    make_data: MakeData, data: TextDataModule, batch_size: int
) -> None:
    packed = make_data(batching="packed", batch_size=batch_size, seed=9)
    packed.prepare_data()
    packed.setup()
    for loader, other in (
        (data.val_dataloader(), packed.val_dataloader()),
        (data.test_dataloader(), packed.test_dataloader()),
    ):
        windows, others = (
            sorted(row[row != 0].tolist() for batch in batches for row in batch["targets"])
            for batches in (loader, other)
        )
        assert windows == others
        for name in "bytes", "unknown_bytes":
            assert sum(int(batch[name]) for batch in loader) == sum(int(batch[name]) for batch in other)


def test_padding_stands_behind_the_tokens_alone(data: TextDataModule) -> None:
    for loader in data.train_dataloader(), data.val_dataloader(), data.test_dataloader():
        for batch in loader:
            lengths = (batch["targets"] != 0).sum(dim=1)
            for name in "inputs", "targets":
                assert torch.equal(batch[name] != 0, torch.arange(batch[name].size(1)) < lengths[:, None])
            assert lengths.max() == batch["targets"].size(1) <= 64


class Refusing(WordTokenizer):
    """Learns, and then cannot write."""

    def save(self, path: str | Path) -> None:
        raise OutsideError("the disk is full")


def test_an_interruption_leaves_nothing_and_the_next_try_succeeds(make_data: MakeData, tmp_path: Path) -> None:
    interrupted = make_data(data_dir=tmp_path, tokenizer=Refusing())
    with pytest.raises(OutsideError, match="the disk is full"):
        interrupted.prepare_data()
    assert not [path for path in (tmp_path / "encoded").iterdir() if path.suffix != ".lock"]
    data = make_data(data_dir=tmp_path)
    data.prepare_data()
    data.setup()
    assert data.folder == interrupted.folder


@pytest.mark.parametrize("name", ["train.arrow", "tokenizer.json", "manifest.json", "SHA256SUMS"])
def test_a_damaged_dataset_is_named_and_made_again(
    make_data: MakeData, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data = make_data(data_dir=tmp_path)
    data.prepare_data()
    before = {path.name: path.read_bytes() for path in data.folder.iterdir()}
    middle = len(before[name]) // 2
    for damaged in before[name][:middle], before[name][:middle] + b"\x05" + before[name][middle + 1 :], None:
        caplog.clear()
        (data.folder / name).unlink() if damaged is None else (data.folder / name).write_bytes(damaged)
        again = make_data(data_dir=tmp_path)
        again.prepare_data()
        again.setup()
        assert {path.name: path.read_bytes() for path in data.folder.iterdir()} == before
        assert caplog.messages == [f"{data.folder} is damaged ({name}), made again"]


def test_prepared_data_can_be_used_where_nothing_can_be_written(
    make_data: MakeData, tmp_path: Path, read_only: Callable[[Path], AbstractContextManager[None]]
) -> None:
    before = make_data(data_dir=tmp_path)
    before.prepare_data()
    before.setup()
    with read_only(tmp_path):
        after = make_data(data_dir=tmp_path)
        after.prepare_data()
        after.setup()
        for name in SPLITS:
            assert [ids.tolist() for ids in after.splits[name]] == [ids.tolist() for ids in before.splits[name]]
        with pytest.raises(SettingError, match=r"^paths\.data_dir=\S+: cannot be written: \S+"):
            make_data(data_dir=tmp_path, vocab_size=401).prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 4}, "vocab_size=4: tokenizer=word needs at least 5"),
        ({"vocab_size": 259, "tokenizer": BPETokenizer()}, "vocab_size=259: tokenizer=bpe needs at least 260"),
        ({"max_length": 1}, "max_length=1: "),
        ({"batch_size": 0}, "batch_size=0: "),
        ({"num_workers": -1}, "num_workers=-1: "),
        ({"batching": "loose"}, "batching=loose: must be dynamic or packed"),
        ({"split": (0.9, 0.2, 0.1)}, r"split=.*sum to 1"),
        ({"split": (0.8, 0.2, 0)}, "split=.* leaves val or test without articles"),
        ({"num_articles": 0}, "num_articles=0: "),
    ],
)
def test_a_setting_that_cannot_work_is_named_before_any_work(
    make_data: MakeData, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        make_data(data_dir=tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_more_processes_than_batches_name_the_setting(make_data: MakeData) -> None:
    class Crowd:
        global_rank, world_size = 3, 100

    data = make_data()
    data.prepare_data()
    data.setup()
    data.trainer = Crowd()  # type: ignore[assignment]
    with pytest.raises(SettingError, match=r"data.batch_size=8: .*not enough for a batch"):
        data.train_dataloader()


def test_validation_and_test_are_over_a_sample_of_large_splits(make_data: MakeData) -> None:
    whole, few = make_data(), make_data(max_val_tokens=700, max_test_tokens=900)
    for data in whole, few:
        data.prepare_data()
        data.setup()

    def targets(loader: Any) -> int:
        return sum(int((batch["targets"] != PAD).sum()) for batch in loader)

    assert 300 < targets(few.val_dataloader()) <= 700 < targets(whole.val_dataloader())
    assert 500 < targets(few.test_dataloader()) <= 900 < targets(whole.test_dataloader())
    assert targets(whole.val_dataloader()) == whole.splits["val"].num_targets


@pytest.mark.parametrize("name", ["max_val_tokens", "max_test_tokens"])
def test_a_sample_without_tokens_is_refused(make_data: MakeData, name: str) -> None:
    with pytest.raises(SettingError, match=f"{name}=0: must be at least 1"):
        make_data(**{name: 0})


def test_of_a_large_training_split_the_tokenizer_is_fitted_on_a_part_that_the_identities_choose(
    make_data: MakeData, data: TextDataModule
) -> None:
    part = make_data(fit_characters=50_000)
    part.prepare_data()
    part.setup()
    articles = data.corpus.articles("train")
    share = part.manifest["fitted_share"]
    assert share == 50_000 / sum(map(len, articles["text"]))
    chosen = [row["text"] for row in articles if uniform("fit", row["page_id"]) < share]
    assert 0 < len(chosen) < len(articles)
    tokenizer = WordTokenizer()
    tokenizer.fit(chosen, 400)
    assert part.tokenizer.to_json() == tokenizer.to_json()
    assert part.folder != data.folder
    assert make_data(fit_characters=10**9).folder == data.folder  # as long as it takes all, it makes no difference
    with pytest.raises(SettingError, match=r"^fit_characters=0: must be at least 1"):
        make_data(fit_characters=0)


KILLED = """
import os, signal, time
import psutil

data.num_workers = 1
data.prepare_data()
data.setup()
os.register_at_fork(after_in_child=lambda: time.sleep(2))
batches = iter(data.val_dataloader())
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not copies")
def test_a_process_that_makes_batches_ends_even_where_the_training_was_killed_before_it_began(data_dir: Path) -> None:
    program = PREPARE.partition("print(")[0] + KILLED
    process = subprocess.Popen([sys.executable, "-c", program, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    worker = psutil.Process(int(process.stdout.readline()))
    _, left = psutil.wait_procs([worker], timeout=30)
    for other in left:
        other.kill()
    assert not left
    assert process.wait() == -signal.SIGKILL
