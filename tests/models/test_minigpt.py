import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minillm.errors import SettingError
from minillm.models import MiniGPT
from minillm.models.dropout import Dropout

RandomIds = Callable[..., Tensor]
SMALL = {"vocab_size": 50, "max_length": 24, "embedding_dim": 32, "num_layers": 2, "num_heads": 4}


@pytest.fixture
def network() -> MiniGPT:
    torch.manual_seed(0)
    network = MiniGPT(**SMALL).eval()
    for parameter in network.parameters():  # biases and norms too: at 0 and 1 they could be left out unnoticed
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def naive_positions(length: int, dim: int) -> Tensor:
    rows = [
        [
            math.sin(place / 10000 ** (column / dim))
            if column % 2 == 0
            else math.cos(place / 10000 ** ((column - 1) / dim))
            for column in range(dim)
        ]
        for place in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean()
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean() + 1e-5) * weight + bias


def by_hand(network: MiniGPT, ids: list[int]) -> Tensor:
    """Return the logits (T, V) of one document, in float64, a token and a head at a time."""
    w = {name: value.double() for name, value in network.state_dict().items()}
    dim, heads = SMALL["embedding_dim"], SMALL["num_heads"]
    size = dim // heads
    positions = naive_positions(len(ids), dim)
    x = torch.stack([w["embedding.weight"][token] * math.sqrt(dim) + positions[t] for t, token in enumerate(ids)])
    for n in range(SMALL["num_layers"]):
        b = f"blocks.{n}."
        normed = torch.stack(
            [layer_norm(row, w[b + "attention_norm.weight"], w[b + "attention_norm.bias"]) for row in x]
        )
        qkv = normed @ w[b + "attention.query_key_value.weight"].T + w[b + "attention.query_key_value.bias"]
        attended = torch.zeros_like(x)
        for head in range(heads):
            q, k, v = (qkv[:, part * dim + head * size : part * dim + (head + 1) * size] for part in range(3))
            for t in range(len(ids)):
                scores = torch.stack([(q[t] * k[s]).sum() / math.sqrt(size) for s in range(t + 1)])
                shares = scores.exp() / scores.exp().sum()
                attended[t, head * size : (head + 1) * size] = sum(shares[s] * v[s] for s in range(t + 1))
        x = x + attended @ w[b + "attention.projection.weight"].T + w[b + "attention.projection.bias"]
        normed = torch.stack(
            [layer_norm(row, w[b + "feedforward_norm.weight"], w[b + "feedforward_norm.bias"]) for row in x]
        )
        hidden = normed @ w[b + "feedforward.0.weight"].T + w[b + "feedforward.0.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ w[b + "feedforward.2.weight"].T + w[b + "feedforward.2.bias"]
    x = torch.stack([layer_norm(row, w["norm.weight"], w["norm.bias"]) for row in x])
    return x @ w["head.weight"].T


def test_the_logits_are_those_of_a_second_implementation(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(2, 20)
    expected = torch.stack([by_hand(network, row.tolist()) for row in ids])
    in_float32 = network(ids)
    assert in_float32.dtype == torch.float32
    torch.testing.assert_close(in_float32.double(), expected, rtol=1e-4, atol=2e-5)
    network.double()
    network.positions = naive_positions(20, SMALL["embedding_dim"])  # the network's own are float32
    torch.testing.assert_close(network(ids), expected, rtol=1e-10, atol=1e-10)


def test_the_logits_with_documents_are_those_of_a_second_implementation(
    network: MiniGPT, random_ids: RandomIds
) -> None:
    ids = random_ids(1, 20)
    documents = torch.tensor([[3] * 7 + [1] * 1 + [2] * 12])
    parts = [by_hand(network, part.tolist()) for part in ids[0].split([7, 1, 12])]
    torch.testing.assert_close(network(ids, documents)[0].double(), torch.cat(parts), rtol=1e-4, atol=2e-5)


def test_positions_are_the_formula_for_even_the_last_of_many() -> None:
    network = MiniGPT(**{**SMALL, "max_length": 1000})
    torch.testing.assert_close(network.positions.double(), naive_positions(1000, 32), rtol=0, atol=1e-7)


@pytest.mark.parametrize("with_documents", [False, True])
def test_later_tokens_never_move_earlier_logits(network: MiniGPT, random_ids: RandomIds, with_documents: bool) -> None:
    ids, others = random_ids(2, 24), random_ids(2, 24, seed=1)
    documents = torch.tensor([[0] * 9 + [1] * 15, [4] * 24]) if with_documents else None
    before = network(ids, documents)
    for place in range(1, 24):
        changed = torch.cat([ids[:, :place], others[:, place:]], dim=1)
        after = network(changed, documents)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-5)
        assert (after[:, place:] - before[:, place:]).abs().max() > 0.1


def test_documents_in_one_row_are_as_if_each_stood_alone(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(2, 24)
    documents = torch.tensor([[0] * 10 + [1] * 14, [5] * 1 + [6] * 20 + [7] * 3])
    together = network(ids, documents)
    for row, lengths in enumerate([(10, 14), (1, 20, 3)]):
        alone = [network(part[None])[0] for part in ids[row].split(lengths)]
        torch.testing.assert_close(together[row], torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_one_document_a_row_is_the_same_as_none_named(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(3, 24)
    torch.testing.assert_close(network(ids, torch.full_like(ids, 9)), network(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefill", [1, 5, 23])
def test_a_cache_filled_at_once_and_then_step_by_step_gives_the_full_forward(
    network: MiniGPT, random_ids: RandomIds, prefill: int
) -> None:
    ids = random_ids(2, 24)
    cache = network.new_cache(2, 24)
    pieces = [network(ids[:, :prefill], cache=cache)]
    pieces += [network(ids[:, t : t + 1], cache=cache) for t in range(prefill, 24)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), network(ids), rtol=1e-4, atol=1e-5)


def test_a_cache_takes_several_tokens_at_any_time(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(2, 24)
    cache = network.new_cache(2, 24)
    pieces = [network(piece, cache=cache) for piece in ids.split([4, 9, 1, 10], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), network(ids), rtol=1e-4, atol=1e-5)


def test_rows_of_different_lengths_share_a_cache_when_padded_on_the_left(
    network: MiniGPT, random_ids: RandomIds
) -> None:
    rows = [random_ids(1, 12, seed=1), random_ids(1, 20, seed=2)]
    alone = [network(row)[0] for row in rows]
    prefix = torch.cat([torch.nn.functional.pad(rows[0], (8, 0)), rows[1]])[:, :14]  # 6 and 14 tokens
    documents = torch.tensor([[0] * 8 + [1] * 6, [1] * 14])
    cache = network.new_cache(2, 20)
    together = [network(prefix, documents, cache)]
    for step in range(6):
        ids = torch.cat([rows[0][:, 6 + step, None], rows[1][:, 14 + step, None]])
        together.append(network(ids, torch.ones_like(ids), cache))
    logits = torch.cat(together, dim=1)
    torch.testing.assert_close(logits[0, 8:], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], alone[1], rtol=1e-4, atol=1e-5)


def test_tokens_without_a_document_go_on_with_their_rows_own(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(2, 20)
    documents = torch.tensor([[0] * 5 + [1] * 15, [3] * 8 + [4] * 12])
    expected = network(ids, documents)
    cache = network.new_cache(2, 20)
    pieces = [network(ids[:, :10], documents[:, :10], cache)]
    pieces += [network(piece, cache=cache) for piece in ids[:, 10:].split([1, 1, 4, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_document_may_begin_in_the_middle_of_a_cache(network: MiniGPT, random_ids: RandomIds) -> None:
    ids = random_ids(2, 16)
    documents = torch.tensor([[0] * 6 + [1] * 4 + [2] * 6, [0] * 9 + [1] * 7])
    expected = network(ids, documents)
    cache = network.new_cache(2, 16)
    pieces = [network(ids[:, :4], documents[:, :4], cache)]
    pieces += [network(ids[:, t : t + 1], documents[:, t : t + 1], cache) for t in range(4, 12)]
    pieces += [network(ids[:, t : t + 1], None, cache) for t in range(12, 16)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_cache_keeps_the_memory_that_it_began_with(network: MiniGPT, random_ids: RandomIds) -> None:
    cache = network.new_cache(2, 24)
    tensors = [*cache.keys, *cache.values, cache.documents]
    places = [tensor.data_ptr() for tensor in tensors]
    ids = random_ids(2, 24)
    network(ids[:, :9], torch.tensor([[0] * 3 + [1] * 6, [1] * 9]), cache)
    first = cache.keys[0][:, :, :9].clone()
    for t in range(9, 24):
        network(ids[:, t : t + 1], cache=cache)
    assert [tensor.data_ptr() for tensor in (*cache.keys, *cache.values, cache.documents)] == places
    assert torch.equal(cache.keys[0][:, :, :9], first)


def test_a_full_cache_says_so(network: MiniGPT, random_ids: RandomIds) -> None:
    cache = network.new_cache(1, 4)
    network(random_ids(1, 4), cache=cache)
    with pytest.raises(ValueError, match="room for 4"):
        network(random_ids(1, 1), cache=cache)


def test_an_input_longer_than_max_length_works_and_changes_nothing_for_short_ones(
    network: MiniGPT, random_ids: RandomIds
) -> None:
    ids = random_ids(1, 60)
    before = network(ids[:, :24])
    long = network(ids)
    torch.testing.assert_close(long[0].double(), by_hand(network, ids[0].tolist()), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(network(ids[:, :24]), before, rtol=0, atol=0)
    assert not any("positions" in name for name in network.state_dict())


def test_training_works_after_a_long_input_in_inference_mode(network: MiniGPT, random_ids: RandomIds) -> None:
    with torch.inference_mode():
        network(random_ids(1, 60))
    network.train()
    network(random_ids(2, 24)).sum().backward()
    assert network.embedding.weight.grad is not None


def test_the_original_size_has_4_140_032_parameters() -> None:
    assert sum(parameter.numel() for parameter in MiniGPT(5000).parameters()) == 4_140_032


def test_fresh_weights_have_the_spread_that_is_documented() -> None:
    torch.manual_seed(0)
    network = MiniGPT(2000)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            expected = 1.0 if name.endswith("weight") else 0.0
            assert torch.equal(parameter, torch.full_like(parameter, expected)), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            spread = 1 / 16 if name == "embedding.weight" else 0.02
            assert parameter.std().item() == pytest.approx(spread, rel=0.02), name
    # Before any training all words are about as probable: the loss starts at log V.
    logits = network.eval()(torch.randint(4, 2000, (2, 64)))
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(4, 2000, (128,)))
    assert nats.item() == pytest.approx(math.log(2000), rel=0.02)


def test_dropout_acts_in_training_alone(random_ids: RandomIds) -> None:
    network = MiniGPT(**SMALL, dropout=0.5)
    ids = random_ids(1, 24)
    assert not torch.equal(network(ids), network(ids))
    network.eval()
    assert torch.equal(network(ids), network(ids))


@pytest.mark.parametrize("place", ["embedding", "attention", "residual", "feedforward"])
def test_each_place_has_a_dropout_of_its_own(random_ids: RandomIds, place: str) -> None:
    network = MiniGPT(**SMALL, dropout={place: 0.5})
    ids = random_ids(1, 24)
    assert not torch.equal(network(ids), network(ids))
    assert [module.p for module in network.modules() if isinstance(module, Dropout)].count(0.5) == (
        1 if place == "embedding" else SMALL["num_layers"]
    )


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("num_heads", 3, r"must divide embedding_dim=32; one of \[1, 2, 4, 8, 16\]"),
        ("num_heads", 0, "at least 1"),
        ("num_layers", 0, "at least 1"),
        ("embedding_dim", 33, "must be even"),
        ("embedding_dim", -4, "at least 1"),
        ("dropout", 1.0, "under 1"),
        ("dropout", -0.1, "at least 0"),
    ],
)
def test_a_size_that_cannot_be_built_is_named_with_what_would_do(name: str, value: float, advice: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}={value}: .*{advice}"):
        MiniGPT(**{**SMALL, name: value})  # type: ignore[arg-type]
