import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from minillm.corpus import SampleSource
from minillm.errors import DivergedError, SettingError
from minillm.inspection import Step
from minillm.language_model import LanguageModel
from minillm.models import GPT2, MiniGPT, MiniGPTModern
from minillm.models.unmasked import UnmaskedGPT
from minillm.tokenization import BOS, EOS, UNK, BPETokenizer, Tokenizer, WordTokenizer

TEXTS = [article.text for article in SampleSource().articles(3, ())]
SENTENCE = "En el año 1492, la Zzyx de la casa."
HOSTILE = [
    "",
    " ",
    "\x00\x1b[31m\ufffe",
    "[EOS] [UNK] [PAD]",
    "<script>alert(1)</script>",
    "\n\n\n",
    "𝄞" * 5,
    "  a  b  ",
]
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "minigpt": MiniGPT,
    "gpt2": GPT2,
    "minigpt_modern": partial(MiniGPTModern, num_kv_heads=2),
    "minigpt_unmasked": UnmaskedGPT,
}


def make(kind: str, tokenizer: Tokenizer) -> LanguageModel:
    """A network of random weights that are large enough for it to prefer some tokens."""
    torch.manual_seed(0)
    network = NETWORKS[kind](len(tokenizer), max_length=32, embedding_dim=32, num_layers=2)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.1 if "embedding" in name else 0.3)
    return LanguageModel(network, tokenizer)


@pytest.fixture(scope="module")
def words() -> WordTokenizer:
    tokenizer = WordTokenizer()
    tokenizer.fit(TEXTS, 300)
    return tokenizer


@pytest.fixture(scope="module")
def pieces() -> BPETokenizer:
    tokenizer = BPETokenizer()
    tokenizer.fit(TEXTS, 400)
    return tokenizer


@pytest.fixture(scope="module", params=NETWORKS)
def wordwise(request: pytest.FixtureRequest, words: WordTokenizer) -> LanguageModel:
    return make(request.param, words)


@pytest.fixture(scope="module", params=["minigpt", "minigpt_modern"])
def model(request: pytest.FixtureRequest, words: WordTokenizer, pieces: BPETokenizer) -> LanguageModel:
    """One model of words and one of pieces of them."""
    tokenizers: dict[str, Tokenizer] = {"minigpt": words, "minigpt_modern": pieces}
    return make(request.param, tokenizers[request.param])


def log_probabilities(model: LanguageModel, context: list[int]) -> Tensor:
    """Return what stands for the token after a context, (V,) float64."""
    with torch.no_grad():
        return model.network(torch.tensor([context]))[0, -1].double().log_softmax(-1)


def test_bits_rank_probability_and_alternatives_are_those_of_a_softmax_by_hand(model: LanguageModel) -> None:
    ids = [BOS, *model.tokenizer.encode(SENTENCE), EOS]
    table = model.surprisal(SENTENCE, k=4)
    assert 8 < len(table) == len(ids) - 1 <= model.max_length
    assert (table["id"] == ids[1:]).all()
    for place, row in enumerate(table.itertuples()):
        expected = log_probabilities(model, ids[: place + 1])
        own = float(expected[row.id])
        hidden = len(row.token.encode()) + 1 if row.id == UNK else 0
        assert row.bits == pytest.approx(-own / math.log(2) + 8 * hidden, rel=1e-5)
        assert row.probability == pytest.approx(math.exp(own), rel=1e-5)
        assert row.rank == 1 + sum(float(other) > own for other in expected)
        best = sorted(range(len(expected)), key=lambda token: -float(expected[token]))[:4]
        assert [text for text, _ in row.alternatives] == [model.tokenizer.text(token) for token in best]
        assert [p for _, p in row.alternatives] == pytest.approx([math.exp(float(expected[b])) for b in best], rel=1e-5)
    assert table["rank"].nunique() > 5


def test_tokens_stand_where_the_table_says_and_an_unknown_word_is_shown(model: LanguageModel) -> None:
    for text in [SENTENCE, TEXTS[0], *HOSTILE]:
        table = model.surprisal(text, k=0)
        whole = table[~table["token"].str.contains(r"\\x|\[EOS\]") | (table["id"] == UNK)]
        for row in whole.itertuples():
            assert text[row.start : row.end] == row.token
        assert (table["start"].to_numpy()[1:] >= table["start"].to_numpy()[:-1]).all()
        covered = {place for row in table.itertuples() for place in range(row.start, row.end)}
        assert {text[place] for place in set(range(len(text))) - covered} <= {" "}
        last = table.iloc[-1]
        assert (last["token"], last["id"], last["start"], last["end"]) == ("[EOS]", EOS, len(text), len(text))
    table = model.surprisal(SENTENCE)
    if model.tokenizer.kind == "word":
        assert "Zzyx" in set(table[table["id"] == UNK]["token"])
    else:
        assert UNK not in set(table["id"])


@pytest.mark.parametrize("text", [SENTENCE, TEXTS[0], "\n".join(TEXTS), "[EOS] [UNK]", "𝄞ñ"])
def test_the_bits_add_up_to_the_score_in_all_networks_and_beyond_the_context(
    wordwise: LanguageModel, text: str
) -> None:
    score = wordwise.score(text)
    table = wordwise.surprisal(text, k=2)
    assert len(table) == score["tokens"]
    assert table["bits"].sum() / len(text.encode()) == pytest.approx(score["bits_per_byte"], abs=1e-6)
    unknown = table[table["id"] == UNK]
    assert (unknown["bits"] >= 8 * (unknown["token"].str.encode("utf-8").str.len() + 1)).all()
    assert len(unknown)


def test_a_table_goes_into_pandas_and_numpy_as_it_is(model: LanguageModel) -> None:
    for text in SENTENCE, "":
        table = model.surprisal(text)
        assert list(table.columns) == ["token", "id", "start", "end", "bits", "rank", "probability", "alternatives"]
        assert [table[name].dtype for name in ("id", "start", "end", "rank")] == [np.int64] * 4
        assert [table[name].dtype for name in ("bits", "probability")] == [np.float64] * 2
        assert isinstance(table.to_json(), str)
    assert len(model.surprisal("")) == 1
    assert model.surprisal("a", k=0)["alternatives"].tolist() == [[]] * len(model.surprisal("a"))
    assert len(model.surprisal("a", k=10**6)["alternatives"][0]) == len(model.tokenizer)


def test_the_next_tokens_are_the_most_probable_ones(model: LanguageModel) -> None:
    for text in ["", "En el año", "En el año  ", TEXTS[0], *HOSTILE]:
        context = [BOS, *model.tokenizer.encode(text.rstrip(" "))][-model.max_length :]
        expected = log_probabilities(model, context)
        table = model.next(text, k=5)
        assert list(table.columns) == ["token", "id", "probability", "bits"]
        assert table["id"].tolist() == expected.argsort(descending=True)[:5].tolist()
        assert table["token"].tolist() == [model.tokenizer.text(token) for token in table["id"]]
        assert table["probability"].to_numpy() == pytest.approx(expected[table["id"].tolist()].exp().numpy(), rel=1e-5)
        assert table["bits"].to_numpy() == pytest.approx(-np.log2(table["probability"].to_numpy()))
    assert model.next("La", k=10**6)["probability"].sum() == pytest.approx(1)
    assert len(model.next("La", k=10**6)) == len(model.tokenizer)


def by_hand(network: Any, x: Tensor, layer: int) -> Tensor:
    """Return a layer's attention weights (H, T, T) float64, of what comes into the layer, (T, dim)."""
    attention = network.blocks[layer].attention
    heads = network.num_heads
    if isinstance(network, MiniGPTModern):
        x = x / (x.pow(2).mean(-1, keepdim=True) + attention.norm.eps).sqrt() * attention.norm.weight.double()
        turned = []
        for linear, norm in (attention.query, attention.query_norm), (attention.key, attention.key_norm):
            y = (x @ linear.weight.double().T).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)  # (H, T, D)
            y = y / (y.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
            half = attention.head_dim // 2
            speed = network.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)
            angle = torch.arange(len(x))[:, None] * speed
            z = torch.complex(y[..., :half], y[..., half:]) * torch.polar(torch.ones_like(angle), angle)
            turned.append(torch.cat((z.real, z.imag), dim=-1))
        q, k = turned
        k = torch.stack([k[head * len(k) // heads] for head in range(heads)])
    else:
        dim = x.size(-1)
        layer_weight = attention.query_key_value.weight.double()
        y = x @ layer_weight.T + attention.query_key_value.bias.double()
        q, k = (y[:, start : start + dim].unflatten(-1, (heads, -1)).transpose(0, 1) for start in (0, dim))
    scores = q @ k.transpose(1, 2) / math.sqrt(q.size(-1))
    if not isinstance(network, UnmaskedGPT):
        scores = scores + torch.full(scores.shape[1:], -math.inf, dtype=torch.float64).triu(1)
    return scores.softmax(-1)


def test_attention_is_what_queries_and_keys_give_by_hand(wordwise: LanguageModel) -> None:
    network: Any = wordwise.network
    inputs: list[Tensor] = []
    hooks = [b.attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0])) for b in network.blocks]
    weights = wordwise.attention(SENTENCE)
    for hook in hooks:
        hook.remove()
    tokens = wordwise.tokens(SENTENCE)
    assert weights.dtype == np.float32
    assert weights.shape == (2, 4, len(tokens), len(tokens))
    assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:-1]), abs=1e-6)
    with torch.no_grad():
        for layer, x in enumerate(inputs):
            assert weights[layer] == pytest.approx(by_hand(network, x.double(), layer).numpy(), abs=1e-5)
    assert weights.std(axis=-1).max() > 0.01  # not the same everywhere


def test_a_leaking_model_looks_above_the_diagonal_and_no_other_does(wordwise: LanguageModel) -> None:
    above = np.triu(wordwise.attention(SENTENCE), 1)
    assert (above.max() > 0.1) == isinstance(wordwise.network, UnmaskedGPT)
    if not isinstance(wordwise.network, UnmaskedGPT):
        assert not above.any()


def test_looking_at_attention_changes_nothing(wordwise: LanguageModel) -> None:
    before = wordwise.score(SENTENCE)
    wordwise.attention(SENTENCE)
    assert wordwise.score(SENTENCE) == before


def test_the_tokens_of_attention_are_the_texts_own(model: LanguageModel) -> None:
    tokens = model.tokens(SENTENCE)
    assert tokens == ["[BOS]", *model.surprisal(SENTENCE, k=0)["token"][:-1]]
    assert model.attention("").shape == (2, 4, 1, 1)
    assert model.tokens("") == ["[BOS]"]


def test_neighbours_are_the_nearest_directions_of_the_embedding(model: LanguageModel) -> None:
    table = model.neighbours("de", k=7)
    assert list(table.columns) == ["token", "id", "cosine"]
    own = (
        model.tokenizer.encode("de")[0] if len(model.tokenizer.encode("de")) == 1 else model.tokenizer.encode(" de")[0]
    )
    rows = model.network.embedding.weight.detach().double().numpy()  # type: ignore[union-attr, operator]
    cosines = {
        other: float(row @ rows[own] / np.linalg.norm(row) / np.linalg.norm(rows[own]))
        for other, row in enumerate(rows)
        if other != own
    }
    expected = sorted(cosines, key=lambda other: -cosines[other])[:7]
    assert table["id"].tolist() == expected
    assert table["cosine"].to_numpy() == pytest.approx([cosines[other] for other in expected], abs=1e-5)
    assert len(model.neighbours("[EOS]", k=10**6)) == len(model.tokenizer) - 1


@pytest.mark.parametrize("token", ["Zzyx", "", "la casa de la", "𝄞𝄞", "\x00\x00", "a" * 10**6])
def test_neighbours_of_what_is_no_token_are_refused_in_one_line(model: LanguageModel, token: str) -> None:
    with pytest.raises(SettingError, match=r"^token=") as refused:
        model.neighbours(token)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"repetition_penalty": 1.5, "temperature": 1.3},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_write_what_generate_writes(
    model: LanguageModel, trained: LanguageModel, settings: dict[str, Any]
) -> None:
    for lm in model, trained:
        for seed in 0, 1:
            taken = list(lm.steps("La ciudad ", 80, seed=seed, **settings))  # far past the window of 32
            assert all(isinstance(step, Step) for step in taken)
            assert taken[-1].text == lm.generate("La ciudad ", 80, seed=seed, **settings)
            assert len(taken) == 80 or taken[-1].id == EOS
            assert EOS not in [step.id for step in taken[:-1]]
            ids = [step.id for step in taken]
            assert lm.continued("La ciudad", ids) == taken[-1].text
            assert [step.text for step in taken[:5]] == [lm.continued("La ciudad", ids[:n]) for n in range(1, 6)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_step_shows_what_its_token_was_drawn_from(model: LanguageModel, settings: dict[str, Any]) -> None:
    prompt = "La ciudad"
    context = [BOS, *model.tokenizer.encode(prompt)]
    for step in model.steps(prompt, 12, seed=2, k=10**6, **settings):
        with torch.no_grad():
            logits = model.network(torch.tensor([context]))[0, -1].double()
        before = logits.softmax(-1).numpy()
        after = drawn_from(logits.numpy(), context, **settings)
        frame = pd.DataFrame(step.candidates)
        assert list(frame.columns) == ["token", "before", "after", "id"]
        assert frame["before"].is_monotonic_decreasing
        frame = frame.set_index("id").sort_index()
        assert frame["before"].to_numpy() == pytest.approx(before, abs=1e-5)
        assert frame["after"].to_numpy() == pytest.approx(after, abs=1e-4)
        assert step.after == frame["after"][step.id] > 0
        assert step.before == frame["before"][step.id]
        assert step.token == model.tokenizer.text(step.id)
        context.append(step.id)
    assert len(context) > 8


def drawn_from(
    logits: np.ndarray,
    occurred: list[int],
    temperature: float = 1,
    top_k: int = 10**6,
    top_p: float = 1,
    repetition_penalty: float = 1,
) -> np.ndarray:
    """Return by hand the probabilities (V,) after all settings."""
    scores = logits.copy()
    for token in set(occurred):
        scores[token] *= repetition_penalty if scores[token] < 0 else 1 / repetition_penalty
    scores[:EOS] = -np.inf
    if temperature == 0:
        return (np.arange(len(scores)) == scores.argmax()).astype(float)
    shares = np.exp((scores - scores.max()) / temperature)
    shares[np.argsort(-shares)[top_k:]] = 0
    shares /= shares.sum()
    order = np.argsort(-shares)
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= top_p]] = 0
    return shares / shares.sum()


def test_another_token_can_be_chosen_and_the_text_goes_on_from_it(trained: LanguageModel) -> None:
    steps = list(trained.steps("La ciudad", 6, seed=1))
    other = next(candidate for candidate in steps[3].candidates if candidate.id not in (steps[3].id, UNK, EOS))
    text = trained.continued("La ciudad", [*(step.id for step in steps[:3]), other.id])
    assert text.startswith(steps[2].text)
    assert text.endswith(other.token)
    assert list(trained.steps(text, 5, seed=1))[-1].text.startswith(text)


def test_steps_come_one_at_a_time_and_what_cannot_be_is_refused_before_the_first(trained: LanguageModel) -> None:
    steps = trained.steps("La ciudad", 100_000, seed=1)
    assert next(steps).text.startswith("La ciudad")
    refused: list[tuple[str, dict[str, Any]]] = [
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": "palabra " * 200_000}),
        ("prompt", {"prompt": "\ud800"}),
        ("max_new_tokens", {"max_new_tokens": -1}),
        ("temperature", {"temperature": -1}),
        ("top_k", {"top_k": 0}),
        ("k", {"k": -1}),
    ]
    for setting, values in refused:
        with pytest.raises(SettingError, match=f"^{setting}=") as error:
            trained.steps(**{"prompt": "La", **values})
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 700


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_as_text(model: LanguageModel, text: str) -> None:
    table = model.surprisal(text, k=3)
    assert np.isfinite(table["bits"]).all()
    assert [token for token in table["id"] if token in (BOS, EOS)] == [EOS]
    weights = model.attention(text)
    assert np.isfinite(weights).all()
    assert weights.shape[-1] == len(model.tokens(text)) == len(table)
    assert len(model.next(text, 3)) == 3


def test_a_megabyte_is_read_in_windows_and_refused_where_it_cannot_be(model: LanguageModel) -> None:
    text = (TEXTS[0] * (10**6 // len(TEXTS[0]) + 1))[: 2 * 10**5]
    table = model.surprisal(text, k=0)
    assert table["bits"].sum() / len(text.encode()) == pytest.approx(model.score(text)["bits_per_byte"], abs=1e-6)
    assert len(model.next(text)) == 10
    with pytest.raises(SettingError, match=r"^text=.* the model's context only 32; shorten it$") as refused:
        model.attention(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_text_that_is_not_unicode_and_numbers_that_cannot_be_are_refused_in_one_line(model: LanguageModel) -> None:
    asks: list[Callable[[str], Any]] = [model.surprisal, model.next, model.attention, model.tokens, model.neighbours]
    for ask in asks:
        with pytest.raises(SettingError, match="is not Unicode"):
            ask("La \ud800")
    with pytest.raises(SettingError, match=r"^k=-1: must be at least 0"):
        model.surprisal("La", k=-1)
    for most in model.next, model.neighbours:
        with pytest.raises(SettingError, match=r"^k=0: must be at least 1"):
            most("de", k=0)


def test_a_diverged_model_says_so(words: WordTokenizer) -> None:
    model = make("minigpt", words)
    network: Any = model.network
    network.head.weight.data[7] = math.nan
    for ask in (model.surprisal, model.next, lambda text: next(model.steps(text))):
        with pytest.raises(DivergedError, match="diverged"):
            ask("La")


def test_a_token_of_bytes_that_are_no_character_is_spelled(pieces: BPETokenizer) -> None:
    texts = [pieces.text(token) for token in range(len(pieces))]
    assert texts[:4] == ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    assert len(set(texts)) == len(texts)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)
    spelled = [pieces.text(token) for token in pieces.encode("𝄞")]
    assert "".join(spelled) == "\\xf0\\x9d\\x84\\x9e"
    whole = pieces.encode("El año, la señora")
    assert "".join(pieces.text(token) for token in whole) == "El año, la señora"
