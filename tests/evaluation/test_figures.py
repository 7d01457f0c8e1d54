"""Every figure equals an independent computation."""

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import MAX_LENGTH, OnlyIds, honest, texts, tokenizer

from minillm.data.batching import EvaluationBatches, Windows
from minillm.errors import OutsideError
from minillm.evaluation import bias
from minillm.evaluation.audit import Audit, Inflation
from minillm.evaluation.evaluation import Evaluator, write_evaluation
from minillm.evaluation.latency import latency, memory
from minillm.evaluation.results import read_evaluation
from minillm.evaluation.schema import Evaluation
from minillm.evaluation.subject import Split, Subject
from minillm.evaluation.text_quality import bleu_scores, continuation_pairs, continue_greedily, diversity
from minillm.language_model import EncodedTexts, LanguageModel
from minillm.tokenization import BOS, EOS, UNK
from minillm.training.predictions import predict


def split(articles: list[str]) -> Split:
    return Split(EncodedTexts(articles, tokenizer()), articles)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(honest(), tokenizer())


@pytest.fixture(scope="module")
def evaluation(model: LanguageModel) -> Evaluation:
    splits = {name: split(articles) for name, articles in texts().items()}
    return Evaluator(max_new_tokens=8, latency_runs=10)(model, splits, "runs/best.ckpt")


@pytest.fixture(scope="module")
def by_hand() -> list[tuple[int, int, np.ndarray]]:
    """Input, target and float64 probabilities (V,) of each test token, one window at a time."""
    network = honest()
    rows = []
    for text in texts()["test"]:
        ids = [BOS, *tokenizer().encode(text), EOS]
        for start in range(0, len(ids) - 1, MAX_LENGTH):
            window = ids[start : start + MAX_LENGTH + 1]
            with torch.no_grad():
                logits = network(torch.tensor([window[:-1]]))[0].double().numpy()
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            rows += list(zip(window[:-1], window[1:], exp / exp.sum(axis=1, keepdims=True), strict=True))
    return rows


def test_language_modelling_is_what_float64_arithmetic_gives(evaluation: Evaluation, by_hand: Any) -> None:
    figures = evaluation["splits"]["test"]
    nats = math.fsum(-math.log(p[target]) for _, target, p in by_hand)
    assert figures["tokens"] == len(by_hand)
    assert figures["loss"] == pytest.approx(nats / len(by_hand), rel=1e-6)
    assert figures["perplexity"] == pytest.approx(math.exp(nats / len(by_hand)), rel=1e-5)
    assert figures["accuracy"] == sum(p.argmax() == target for _, target, p in by_hand) / len(by_hand)


def test_bits_per_byte_is_that_of_score(evaluation: Evaluation, model: LanguageModel) -> None:
    for name, articles in texts().items():
        scored, figures = model.score(articles), evaluation["splits"][name]
        for figure in ("bits_per_byte", "perplexity"):
            assert figures[figure] == pytest.approx(scored[figure], rel=1e-9)
        assert figures["tokens"] == scored["tokens"]


def test_samples_begin_as_test_articles_where_the_corpus_is_not_spanish_by_its_settings(model: LanguageModel) -> None:
    def prompts(language: str | None, **changes: Any) -> list[str]:
        config = {"data": {"quality": {"language": language}}}
        own = LanguageModel(model.network, tokenizer(), config)
        articles = ["Le fleuve traverse la ville et rejoint la mer. " * 4, "", "Une autre ville est plus loin. " * 4]
        splits = {"test": Split(EncodedTexts(articles, tokenizer()), articles)}
        found = Evaluator(max_new_tokens=2, latency_runs=1)(own, splits, "best.ckpt", **changes)
        assert found["data"]["language"] == "fr"
        return [sample["prompt"] for sample in found["text"]["samples"]]

    assert prompts("es") == ["En el año 1492,", "Durante la Edad Media,"]
    assert prompts("auto") == prompts(None) == ["Le fleuve traverse la", "Une autre ville est"]
    assert prompts("es", other_text="textes/") == prompts("auto")


def test_overfitting_compares_validation_with_training(evaluation: Evaluation) -> None:
    train, val = evaluation["splits"]["train"]["loss"], evaluation["splits"]["val"]["loss"]
    assert evaluation["overfitting"] == {"ratio": val / train, "gap": val - train}


def test_bias_is_what_numpy_gives(evaluation: Evaluation, by_hand: Any) -> None:
    difference = np.array([int(p.argmax()) - target for _, target, p in by_hand], dtype=float)
    found = evaluation["bias"]
    assert found["prediction_bias"] == pytest.approx(difference.mean())
    assert found["absolute_bias"] == pytest.approx(np.abs(difference).mean())
    assert found["bias_variance"] == pytest.approx(difference.var())


def test_distances_of_distributions_are_what_numpy_gives(evaluation: Evaluation, by_hand: Any) -> None:
    predicted = np.mean([p for *_, p in by_hand], axis=0)
    true = np.bincount([target for _, target, _ in by_hand], minlength=len(predicted)) / len(by_hand)
    kl = sum(t * math.log(t / p) for t, p in zip(true, predicted, strict=True) if t)
    assert evaluation["bias"]["kl_divergence"] == pytest.approx(kl, rel=1e-4)
    assert evaluation["bias"]["total_variation"] == pytest.approx(np.abs(true - predicted).sum() / 2, rel=1e-4)
    token = evaluation["bias"]["overpredicted"][0]
    most = int(np.argmax(predicted - true))
    assert token["token"] == tokenizer().token(most)
    assert (token["predicted"], token["true"]) == pytest.approx((predicted[most], true[most]), rel=1e-4)
    least = int(np.argmin(predicted - true))
    assert evaluation["bias"]["underpredicted"][0]["token"] == tokenizer().token(least)


def test_calibration_error_is_what_binning_by_hand_gives(evaluation: Evaluation, by_hand: Any) -> None:
    error = 0.0
    for number in range(15):
        inside = [(p.max(), p.argmax() == y) for _, y, p in by_hand if number / 15 < p.max() <= (number + 1) / 15]
        drawn = evaluation["plots"]["calibration"][number]
        assert drawn["tokens"] == len(inside)
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            assert (drawn["confidence"], drawn["accuracy"]) == pytest.approx((confidence, accuracy), rel=1e-5)
            error += len(inside) / len(by_hand) * abs(confidence - accuracy)
    assert evaluation["bias"]["calibration_error"] == pytest.approx(error, rel=1e-5)


def test_accuracy_by_frequency_counts_each_target_in_the_bucket_of_its_rank(
    evaluation: Evaluation, by_hand: Any
) -> None:
    counts = Counter(id for text in texts()["train"] for id in [*tokenizer().encode(text), EOS])
    ranked = [id for id, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if id != UNK]
    for bucket, tokens in (("1-10", ranked[:10]), ("11-100", ranked[10:100]), ("[UNK]", [UNK])):
        hits = [p.argmax() == target for _, target, p in by_hand if target in tokens]
        [found] = [entry for entry in evaluation["bias"]["accuracy_by_frequency"] if entry["bucket"] == bucket]
        assert found["tokens"] == len(hits)
        assert found["accuracy"] == pytest.approx(np.mean(hits))
    assert sum(entry["tokens"] for entry in evaluation["bias"]["accuracy_by_frequency"]) == len(by_hand)


def test_bleu_is_what_sacrebleus_own_command_gives(
    evaluation: Evaluation, model: LanguageModel, tmp_path: Path
) -> None:
    prompts, references = continuation_pairs(texts()["test"])
    (tmp_path / "references").write_text("\n".join(references) + "\n", encoding="utf-8")
    (tmp_path / "hypotheses").write_text("\n".join(continue_greedily(model, prompts)) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-b", "-w", "8"]
    ran = subprocess.run([*command, "-m", "bleu"], capture_output=True, check=True, cwd=tmp_path, encoding="utf-8")
    assert evaluation["text"]["bleu4"] == pytest.approx(float(ran.stdout) / 100, abs=1e-9)
    assert bleu_scores(references, references) == pytest.approx(dict.fromkeys(("bleu1", "bleu2", "bleu3", "bleu4"), 1))


def test_without_an_article_of_48_words_there_is_no_bleu(model: LanguageModel) -> None:
    lenient = Audit(inflation=Inflation(unknown=1.0))  # most of its words are not in so small a vocabulary
    evaluator = Evaluator(lenient, max_new_tokens=2, latency_runs=1)
    short = evaluator(model, {"test": split(["Una frase corta."])}, "best.ckpt")
    assert short["text"]["articles"] == 0
    assert short["text"]["bleu4"] is None
    assert short["trustworthy"] is True


def test_diversity_counts_ngrams() -> None:
    found = diversity(["uno dos tres cuatro uno dos tres cuatro", "uno cinco"])
    assert found == {"distinct1": 5 / 10, "distinct2": 5 / 8, "repetition4": 1 / 5}
    assert diversity(["", "a"]) == {"distinct1": 1.0, "distinct2": 0.0, "repetition4": 0.0}


def test_the_data_and_the_histogram_count_every_article(evaluation: Evaluation) -> None:
    for name, articles in texts().items():
        ids = [id for text in articles for id in [*tokenizer().encode(text), EOS]]
        assert evaluation["data"]["articles"][name] == len(articles)
        assert evaluation["data"]["tokens"][name] == len(ids)
        assert evaluation["data"]["bytes"][name] == len("".join(articles).encode())
        assert evaluation["data"]["unk_rate"][name] == pytest.approx(ids.count(UNK) / len(ids))
        assert sum(evaluation["plots"]["article_lengths"]["articles"][name]) == len(articles)


def test_two_evaluations_of_a_model_are_equal_but_for_the_clock(evaluation: Evaluation, model: LanguageModel) -> None:
    splits = {name: split(articles) for name, articles in texts().items()}
    again = Evaluator(max_new_tokens=8, latency_runs=10)(model, splits, "runs/best.ckpt")
    for timed in ("latency", "memory", "seconds"):
        again.pop(timed)  # type: ignore[misc]
    assert again == {name: value for name, value in evaluation.items() if name in again}


def test_figures_do_not_depend_on_the_batch_size() -> None:
    one, many = (
        Subject(honest(), len(tokenizer()), MAX_LENGTH, {"test": split(texts()["test"])}, batch_size=size)
        for size in (1, 30)
    )
    assert one.measured["test"].figures == pytest.approx(many.measured["test"].figures, rel=1e-6)
    for name, sums in one.counts.items():
        assert sums == pytest.approx(many.counts[name], rel=1e-5), name


def test_the_sums_of_two_processes_are_those_of_one() -> None:
    documents = EncodedTexts(texts()["test"], tokenizer())
    windows = Windows(documents, MAX_LENGTH)
    whole, halves = bias.TokenCounts(len(tokenizer())), [bias.TokenCounts(len(tokenizer())) for _ in range(2)]
    with torch.no_grad():
        for rank, world, counts in (0, 1, whole), (0, 2, halves[0]), (1, 2, halves[1]):
            for indices in EvaluationBatches(windows.lengths, 8, rank, world):
                batch = windows.__getitems__(indices)
                predictions = predict(honest()(batch["inputs"]), batch["targets"], with_distribution=True)
                counts.update(predictions, batch["inputs"])
    for name in whole._defaults:
        assert torch.allclose(getattr(whole, name), sum(getattr(half, name) for half in halves)), name


def test_memory_of_the_figures_does_not_grow_with_the_split() -> None:
    counts = bias.TokenCounts(50)
    ids = torch.randint(4, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    sizes = set()
    for _ in range(3):
        counts.update(predict(torch.zeros(2, 9, 50), ids, with_distribution=True), ids)
        sizes.add(sum(getattr(counts, name).numel() for name in counts._defaults))
    assert len(sizes) == 1


def test_latency_and_memory_are_those_of_the_network() -> None:
    device = torch.device("cpu")
    measured = latency(honest(), len(tokenizer()), MAX_LENGTH, device, runs=20)
    assert measured["token_ms"] is not None
    assert 0 < measured["token_ms"]["mean"] < measured["forward_ms"]["mean"] * 3
    assert latency(OnlyIds(honest()), len(tokenizer()), MAX_LENGTH, device, runs=2)["token_ms"] is None
    size = memory(honest(), device)
    assert size["parameters"] == sum(weight.numel() for weight in honest().parameters())
    assert size["parameter_mib"] == size["parameters"] * 4 / 2**20
    assert 100 < size["peak_mib"] < 1e5


def coded(probabilities: Iterator[list[Fraction]], symbols: list[int]) -> str:
    """Return the bits of an arithmetic code, in exact arithmetic."""
    low, width = Fraction(0), Fraction(1)
    for symbol in symbols:
        distribution = next(probabilities)
        low += width * sum(distribution[:symbol])
        width *= distribution[symbol]
    length = max(0, math.ceil(-math.log2(width))) + 1
    return f"{math.ceil(low * 2**length):0{length}b}"


def exact(network: torch.nn.Module, ids: list[int]) -> list[Fraction]:
    """Return the network's next distribution as exact fractions that sum to 1, a little flattened by rounding."""
    with torch.no_grad():
        p = network(torch.tensor([ids]))[0, -1].double().softmax(0)
    counts = [int(share * 2**40) + 1 for share in p.tolist()]
    return [Fraction(count, sum(counts)) for count in counts]


def test_bits_per_byte_is_the_length_of_a_code_that_gives_the_text_back(model: LanguageModel) -> None:
    text = texts()["test"][0][:150].rsplit(" ", 1)[0]
    native = tokenizer()._native
    encoding = native.encode(text, add_special_tokens=False)
    surfaces = [text[start:end] for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if id == UNK]
    assert len(surfaces) > 3
    symbols = [*encoding.ids, EOS]
    assert len(symbols) <= MAX_LENGTH
    contexts = [[BOS, *symbols[:place]] for place in range(len(symbols))]
    bits = coded((exact(honest(), context) for context in contexts), symbols)
    spelled = b"".join(surface.encode() + b"\0" for surface in surfaces)

    # The decoder has the bits, the spelled words, and the network.
    value, ids = Fraction(int(bits, 2), 2 ** len(bits)), [BOS]
    while ids[-1] != EOS:
        low, symbol = Fraction(0), 0
        shares = exact(honest(), ids)
        while value >= low + shares[symbol]:
            low += shares[symbol]
            symbol += 1
        value = (value - low) / shares[symbol]
        ids.append(symbol)
    words = iter(spelled.decode().split("\0"))
    assert native.decoder.decode([next(words) if i == UNK else tokenizer().token(i) for i in ids[1:-1]]) == text

    claimed = model.score(text)["bits_per_byte"] * len(text.encode())
    assert claimed <= len(bits) + 8 * len(spelled) <= claimed + 2


def test_the_file_is_written_whole_or_not_at_all(evaluation: Evaluation, tmp_path: Path) -> None:
    path = write_evaluation(evaluation, tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation({**evaluation, "seconds": float("nan")}, tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["evaluation.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutsideError, match="cannot be written"):
        write_evaluation(evaluation, tmp_path / "file")


def test_a_file_that_was_changed_is_not_believed(evaluation: Evaluation, tmp_path: Path) -> None:
    path = write_evaluation(evaluation, tmp_path)
    assert read_evaluation(tmp_path) == evaluation
    loss = evaluation["splits"]["test"]["loss"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"loss": {loss}', f'"loss": {loss / 2}'), encoding="utf-8")
    with pytest.raises(OutsideError, match="damaged, or changed by hand; evaluate the run again"):
        read_evaluation(tmp_path)
    path.write_text(json.dumps(evaluation), encoding="utf-8")  # as written before there were seals
    assert read_evaluation(tmp_path) == evaluation


def test_a_split_without_articles_is_refused(model: LanguageModel) -> None:
    empty = EncodedTexts(["x"], tokenizer())
    empty.documents, empty.lengths = [], empty.lengths[:0]
    with pytest.raises(OutsideError, match="the test split has no article"):
        Evaluator()(model, {"test": Split(empty, [])}, "best.ckpt")
