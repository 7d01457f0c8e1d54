from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from minillm.data import Augmentation, Batch, Curriculum, TextDataModule
from minillm.data.augmentation import Augmented, reordered, sentences
from minillm.data.batching import ResumableLoader
from minillm.tokenization import BOS, EOS, PAD, UNK, BPETokenizer, WordTokenizer

MakeData = Callable[..., TextDataModule]
BATCHINGS = ["dynamic", "packed"]


@pytest.fixture(scope="module")
def prepared(make_data: MakeData) -> MakeData:
    """Make a data module that is ready for use."""

    def make(tokenizer: str = "bpe", **settings: Any) -> TextDataModule:
        data = make_data(tokenizer=BPETokenizer() if tokenizer == "bpe" else WordTokenizer(), **settings)
        data.prepare_data()
        data.setup()
        return data

    return make


def epoch_of(data: TextDataModule, epoch: int) -> ResumableLoader:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return loader


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


ALL = Augmentation(word_dropout=0.1, bpe_dropout=0.1, sentence_reordering=0.5)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_validation_and_test_are_never_touched(prepared: MakeData, batching: str) -> None:
    plain, augmented = prepared(batching=batching), prepared(batching=batching, augmentation=ALL)
    assert not same(plain.train_dataloader(), augmented.train_dataloader())
    assert same(plain.val_dataloader(), augmented.val_dataloader())
    assert same(plain.test_dataloader(), augmented.test_dataloader())
    assert augmented.folder == plain.folder  # the encoded dataset is the same, and so its tokenizer
    for name in "train", "val", "test":
        assert [ids.tolist() for ids in augmented.splits[name]] == [ids.tolist() for ids in plain.splits[name]]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_all_probabilities_0_are_the_plain_batches_at_no_cost(prepared: MakeData, batching: str) -> None:
    plain, off = prepared(batching=batching), prepared(batching=batching, augmentation=Augmentation(0, 0, 0))
    assert same(epoch_of(plain, 2), epoch_of(off, 2))
    assert not isinstance(off.train_dataloader().dataset, Augmented)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_word_dropout_hides_its_share_of_the_inputs_and_no_target(
    prepared: MakeData, batching: str, tokenizer: str
) -> None:
    plain = prepared(tokenizer, batching=batching)
    dropping = prepared(tokenizer, batching=batching, augmentation=Augmentation(word_dropout=0.2))
    hidden = words = 0
    for whole, dropped in zip(epoch_of(plain, 1), epoch_of(dropping, 1), strict=True):
        for name in whole.keys() - {"inputs"}:
            assert torch.equal(whole[name], dropped[name])
        changed = whole["inputs"] != dropped["inputs"]
        assert set(dropped["inputs"][changed].tolist()) <= {UNK}
        assert not torch.isin(whole["inputs"][changed], torch.tensor([PAD, BOS])).any()
        hidden, words = hidden + int(changed.sum()), words + int((whole["inputs"] > EOS).sum())
    assert abs(hidden / words - 0.2) < 5 * (0.16 / words) ** 0.5
    assert not same(epoch_of(dropping, 1), epoch_of(dropping, 2))


def documents(data: TextDataModule, epoch: int) -> list[str]:
    """Return the texts that an epoch trains on, decoded from its packed rows."""
    found: dict[int, list[int]] = {}
    dataset = epoch_of(data, epoch).dataset
    assert isinstance(dataset, Augmented)
    dataset.set_epoch(epoch)
    batch = dataset.__getitems__(range(len(dataset)))
    for number, target in zip(batch["documents"].flatten().tolist(), batch["targets"].flatten().tolist(), strict=True):
        found.setdefault(number, []).append(target)
    found.pop(-1, None)
    return [data.tokenizer.decode(ids) for ids in found.values()]


def test_bpe_dropout_gives_the_same_texts_in_other_tokens_each_epoch(prepared: MakeData) -> None:
    data = prepared(batching="packed", augmentation=Augmentation(bpe_dropout=0.1))
    texts = sorted(data.corpus.articles("train")["text"])
    assert sorted(documents(data, 0)) == sorted(documents(data, 1)) == texts
    tokens = [sum(int((batch["targets"] != PAD).sum()) for batch in epoch_of(data, epoch)) for epoch in (0, 1)]
    assert tokens[0] > 1.03 * data.splits["train"].num_targets


@pytest.mark.parametrize("batching", BATCHINGS)
def test_an_epoch_has_as_many_batches_as_the_first_however_long_its_text(prepared: MakeData, batching: str) -> None:
    data = prepared(batching=batching, augmentation=Augmentation(bpe_dropout=0.3))
    lengths = set()
    for epoch in range(3):
        loader = epoch_of(data, epoch)
        assert len(list(loader)) == len(loader)
        assert isinstance(loader.dataset, Augmented)
        lengths.add(int(loader.dataset.items.documents.lengths.sum()))
    assert len(lengths) == 3


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_sentence_reordering_moves_sentences_within_their_article(prepared: MakeData, tokenizer: str) -> None:
    data = prepared(tokenizer, vocab_size=20000, batching="packed", augmentation=Augmentation(sentence_reordering=1))
    texts = {bag(text): text for text in data.corpus.articles("train")["text"]}
    first, second = documents(data, 0), documents(data, 1)
    assert {bag(text) for text in first} == {bag(text) for text in second} == texts.keys()
    assert sum(text != texts[bag(text)] for text in first) > 0.9 * len(texts)
    assert sorted(first) != sorted(second)


def bag(text: str) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(sentence for sentence, _ in sentences(text)).items()))


def test_sentence_reordering_takes_its_share_of_the_articles() -> None:
    text = "Uno es uno. Dos son dos.\nTres son tres. Cuatro son cuatro. Cinco."
    random = np.random.default_rng(0)
    drawn = [reordered(text, 0.3, random) for _ in range(2000)]
    assert abs(sum(other != text for other in drawn) / 2000 - 0.3 * (1 - 1 / 120)) < 0.05
    assert {len(other) for other in drawn} == {len(text)}
    # What is between the sentences stays in its place, after the second.
    assert {len(sentences(other.split("\n")[0])) for other in drawn} == {2}


@pytest.mark.parametrize("by", ["length", "difficulty"])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_everything_on_goes_on_in_the_middle_of_any_epoch(
    prepared: MakeData, batching: str, workers: int, by: Any
) -> None:
    def data() -> TextDataModule:
        made = prepared(batching=batching, augmentation=ALL, curriculum=Curriculum(by, warmup=40))
        made.num_workers = workers
        return made

    for epoch, done in (0, 3), (1, 5):
        iterator = iter(epoch_of(data(), epoch))
        seen = list(islice(iterator, done))
        rest = list(iterator)
        resumed = epoch_of(data(), epoch)
        resumed._done = lambda: done  # noqa: B023 # the trainer's count, which a resume restores
        assert same(resumed, rest)
        assert len(seen) == done
        assert rest
