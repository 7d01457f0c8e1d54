from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minillm.errors import SettingError
from minillm.models import GPT2

RandomIds = Callable[..., Tensor]
SMALL: dict[str, Any] = {"vocab_size": 50, "max_length": 24, "embedding_dim": 32, "num_layers": 2, "num_heads": 4}
NAMES = {
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "feedforward_norm": "ln_2",
    "feedforward.0": "mlp.c_fc",
    "feedforward.2": "mlp.c_proj",
}


@pytest.fixture
def network() -> GPT2:
    torch.manual_seed(0)
    network = GPT2(**SMALL).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def transformers_state_dict(network: GPT2) -> dict[str, Tensor]:
    state = {
        "transformer.wte.weight": network.embedding.weight,
        "transformer.wpe.weight": network.position_embedding.weight,
        "transformer.ln_f.weight": network.norm.weight,
        "transformer.ln_f.bias": network.norm.bias,
        "lm_head.weight": network.head.weight,
    }
    for number, block in enumerate(network.blocks):
        for ours, theirs in NAMES.items():
            for kind in "weight", "bias":
                value = block.get_parameter(f"{ours}.{kind}")
                state[f"transformer.h.{number}.{theirs}.{kind}"] = value.T if value.ndim == 2 else value
    return state


def test_it_is_transformers_gpt2(network: GPT2, random_ids: RandomIds) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    config = transformers.GPT2Config(vocab_size=50, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    fresh = {name: value.std().item() for name, value in GPT2(**SMALL).state_dict().items() if value.ndim == 2}
    fresh_theirs = {name: value.std().item() for name, value in theirs.state_dict().items()}
    for ours, name in {"blocks.1.feedforward.2.weight": "h.1.mlp.c_proj", "position_embedding.weight": "wpe"}.items():
        assert fresh[ours] == pytest.approx(fresh_theirs[f"transformer.{name}.weight"], rel=0.1)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs.parameters())
    theirs.load_state_dict(transformers_state_dict(network), strict=True)
    ids = random_ids(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(ids), theirs(input_ids=ids).logits, rtol=1e-5, atol=2e-5)


def test_documents_and_a_cache_work_as_in_minigpt(network: GPT2, random_ids: RandomIds) -> None:
    ids = random_ids(2, 24)
    documents = torch.tensor([[0] * 10 + [1] * 14, [5] * 1 + [6] * 20 + [7] * 3])
    together = network(ids, documents)
    for row, lengths in enumerate([(10, 14), (1, 20, 3)]):
        alone = [network(part[None])[0] for part in ids[row].split(lengths)]
        torch.testing.assert_close(together[row], torch.cat(alone), rtol=1e-4, atol=1e-5)
    cache = network.new_cache(2, 24)
    pieces = [network(piece, cache=cache) for piece in ids.split([5, 1, 18], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), network(ids), rtol=1e-4, atol=1e-5)


def test_it_has_no_position_behind_the_last(network: GPT2, random_ids: RandomIds) -> None:
    with pytest.raises(ValueError, match="learned 24 positions; 25 tokens need more"):
        network(random_ids(1, 25))


@pytest.mark.parametrize(("name", "value"), [("num_heads", 3), ("num_layers", 0), ("dropout", 1.0)])
def test_a_size_that_cannot_be_built_is_named(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{name}={value}: must"):
        GPT2(**{**SMALL, name: value})
