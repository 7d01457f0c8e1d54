import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.export.forms import qwen3_config, qwen3_state_dict
from minillm.models import MiniGPTModern
from minillm.models.attention import attention
from minillm.models.dropout import Dropout
from minillm.models.minigpt_modern import rotary_angles
from minillm.models.normalization import RMSNorm

RandomIds = Callable[..., Tensor]
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "max_length": 24,
    "embedding_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
}


def make(**settings: Any) -> MiniGPTModern:
    torch.manual_seed(0)
    network = MiniGPTModern(**{**SMALL, **settings}).eval()
    for parameter in network.parameters():  # the norms too: at 1 they could be left out unnoticed
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture
def network() -> MiniGPTModern:
    return make()


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_kv_heads": None}, {"num_kv_heads": 1, "tie_head": True}, {"head_dim": 6, "rope_theta": 500.0}],
)
def test_the_logits_are_those_of_transformers_qwen3(settings: dict[str, Any], random_ids: RandomIds) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    network = make(**settings)
    theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**qwen3_config(network))).eval()
    theirs.load_state_dict(qwen3_state_dict(network), strict=not settings.get("tie_head"))
    for ids in (
        random_ids(2, 24),
        random_ids(1, 90),
        random_ids(1, 2),
    ):  # trained length, longer, fewer than a matrix has rows
        with torch.no_grad():
            torch.testing.assert_close(network(ids), theirs(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_rotary_positions_make_attention_see_distances_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 16)
    scores = torch.empty(40, 40)
    cosine, sine = rotary_angles(torch.arange(40), 16, 100.0)
    turned_query, turned_key = (x * cosine + x.roll(8) * sine for x in (query, key))
    scores = turned_query @ turned_key.T
    for distance in range(-39, 40):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert scores[0].std() > 0.1  # and distances do matter
    # A turn keeps lengths, and is that of a complex number.
    pairs = torch.complex(key[:8], key[8:]) * torch.exp(1j * 7 * 100.0 ** (-torch.arange(8) / 8))
    torch.testing.assert_close(turned_key[7], torch.cat((pairs.real, pairs.imag)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_heads_are_equal_to_repeated_ones(training: bool, masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 10, 8), torch.randn(3, 2, 10, 8), torch.randn(3, 2, 10, 8)
    mask = torch.ones(3, 1, 10, 10, dtype=torch.bool).tril() if masked else None
    if mask is not None:
        mask[1, :, 4:, :4] = False
    repeated = [x.repeat_interleave(3, dim=1) for x in (key, value)]
    allowed = torch.ones(10, 10, dtype=torch.bool).tril() if mask is None else mask
    scores = (query @ repeated[0].mT / math.sqrt(8)).masked_fill(~allowed, -math.inf)
    expected = scores.softmax(dim=-1) @ repeated[1]
    actual = attention(query, key, value, mask, Dropout(0.0).train(training))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_network_with_grouped_heads_is_one_whose_heads_repeat(network: MiniGPTModern, random_ids: RandomIds) -> None:
    whole = make(num_kv_heads=4)
    state = network.state_dict()
    for name in state:
        if name.endswith(("key.weight", "value.weight")):
            state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    whole.load_state_dict(state)
    ids = random_ids(2, 24)
    torch.testing.assert_close(network(ids), whole(ids), rtol=1e-4, atol=1e-5)


def test_rms_norm_and_its_gradient_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(8).double(), torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    expected = x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * norm.weight
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(norm, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm.float().normalize(x.float()).dtype == torch.bfloat16
    assert not RMSNorm(4)(torch.zeros(1, 4)).any()


def test_rms_norm_elsewhere_than_on_the_processor_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = RMSNorm(8), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        here = norm.normalize(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        elsewhere = norm.normalize(x)
    assert elsewhere.dtype == torch.bfloat16
    torch.testing.assert_close(elsewhere, here)


def test_training_computes_what_evaluation_does(network: MiniGPTModern, random_ids: RandomIds) -> None:
    ids, documents = random_ids(4, 24), torch.tensor([[0] * 9 + [1] * 15]).expand(4, -1)
    network.dropout.p = 0.0
    for module in network.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    for some in None, documents:
        expected = network.eval()(ids, some)
        torch.testing.assert_close(network.train()(ids, some), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_documents", [False, True])
def test_later_tokens_never_move_earlier_logits(
    network: MiniGPTModern, random_ids: RandomIds, with_documents: bool
) -> None:
    ids, others = random_ids(2, 24), random_ids(2, 24, seed=1)
    documents = torch.tensor([[0] * 9 + [1] * 15, [4] * 24]) if with_documents else None
    before = network(ids, documents)
    for place in range(1, 24):
        changed = torch.cat([ids[:, :place], others[:, place:]], dim=1)
        after = network(changed, documents)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-5)
        assert (after[:, place:] - before[:, place:]).abs().max() > 0.1


def test_documents_in_one_row_are_as_if_each_stood_alone(network: MiniGPTModern, random_ids: RandomIds) -> None:
    ids = random_ids(2, 24)
    documents = torch.tensor([[0] * 10 + [1] * 14, [5] * 1 + [6] * 20 + [7] * 3])
    together = network(ids, documents)
    for row, lengths in enumerate([(10, 14), (1, 20, 3)]):
        alone = [network(part[None])[0] for part in ids[row].split(lengths)]
        torch.testing.assert_close(together[row], torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 24, [23, 1], [4, 9, 1, 10]])
def test_a_cache_gives_the_full_forward(network: MiniGPTModern, random_ids: RandomIds, pieces: list[int]) -> None:
    ids = random_ids(2, 24)
    cache = network.new_cache(2, 24)
    assert cache.keys[0].shape == (2, 2, 24, 8)  # the heads of keys, not those of queries
    logits = [network(piece, cache=cache) for piece in ids.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), network(ids), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="room for 24"):
        network(ids[:, :1], cache=cache)


def test_rows_of_different_lengths_share_a_cache_when_padded_on_the_left(
    network: MiniGPTModern, random_ids: RandomIds
) -> None:
    rows = [random_ids(1, 12, seed=1), random_ids(1, 20, seed=2)]
    prefix = torch.cat([F.pad(rows[0], (8, 0)), rows[1]])[:, :14]  # 6 and 14 tokens
    documents = torch.tensor([[0] * 8 + [1] * 6, [1] * 14])
    cache = network.new_cache(2, 20)
    together = [network(prefix, documents, cache)]
    for step in range(6):
        ids = torch.cat([rows[0][:, 6 + step, None], rows[1][:, 14 + step, None]])
        together.append(network(ids, torch.ones_like(ids), cache))
    logits = torch.cat(together, dim=1)
    torch.testing.assert_close(logits[0, 8:], network(rows[0])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], network(rows[1])[0], rtol=1e-4, atol=1e-5)


def test_an_input_longer_than_max_length_is_read_to_its_end(network: MiniGPTModern, random_ids: RandomIds) -> None:
    ids = random_ids(1, 60)
    long = network(ids)
    torch.testing.assert_close(long[:, :24], network(ids[:, :24]), rtol=1e-4, atol=1e-5)
    moved = network(ids.index_fill(1, torch.tensor([0]), 4 + (int(ids[0, 0]) - 3) % 46))
    assert (moved - long)[:, 59].abs().max() > 1e-3  # the last token sees the first one


def test_a_tied_head_has_no_weights_of_its_own() -> None:
    tied, untied = make(tie_head=True), make()
    assert tied.head.weight is tied.embedding.weight
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 50 * 32


def test_each_place_has_a_dropout_of_its_own(random_ids: RandomIds) -> None:
    ids = random_ids(2, 24)
    for place in "embedding", "attention", "residual", "feedforward":
        dropping = make(dropout={place: 0.5}).train()
        rates = {name: m.p for name, m in dropping.named_modules() if isinstance(m, Dropout)}
        names = {
            "embedding": ["dropout"],
            "attention": ["blocks.0.attention.dropout", "blocks.1.attention.dropout"],
            "residual": ["blocks.0.dropout", "blocks.1.dropout"],
            "feedforward": ["blocks.0.feedforward.dropout", "blocks.1.feedforward.dropout"],
        }[place]
        assert {name for name, p in rates.items() if p == 0.5} == set(names)
        assert {p for name, p in rates.items() if name not in names} == {0.0}
        assert not torch.equal(dropping(ids), dropping(ids))
        assert torch.equal(dropping.eval()(ids), dropping(ids))


def test_fresh_weights_have_the_spread_that_is_documented() -> None:
    torch.manual_seed(0)
    network = MiniGPTModern(2000, num_layers=8)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            writes = name.endswith(("projection.weight", "down.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / 4 if writes else 0.02, rel=0.03), name
    nats = F.cross_entropy(network.eval()(torch.randint(4, 2000, (64,))[None])[0], torch.randint(4, 2000, (64,)))
    assert nats.item() == pytest.approx(math.log(2000), rel=0.03)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("num_heads", 3, "must divide embedding_dim=32, or head_dim must be set"),
        ("num_kv_heads", 3, r"must divide num_heads=4; one of \[1, 2, 4\]"),
        ("num_kv_heads", 0, "at least 1"),
        ("num_layers", 0, "at least 1"),
        ("head_dim", 7, "must be even, such as 8"),
        ("feedforward_dim", -1, "at least 1"),
        ("rope_theta", 1.0, "must be over 1"),
        ("dropout", 1.0, "under 1"),
    ],
)
def test_a_size_that_cannot_be_built_is_named_with_what_would_do(name: str, value: float, advice: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}={value}: .*{advice}"):
        make(**{name: value})


def test_a_place_without_dropout_is_named() -> None:
    with pytest.raises(SettingError, match=r"dropout\.head=0\.1: is unknown; choose from embedding, attention"):
        make(dropout={"head": 0.1})
    with pytest.raises(SettingError, match=r"dropout\.residual=2: must be at least 0 and under 1"):
        make(dropout={"residual": 2})
