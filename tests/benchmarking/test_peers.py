"""Other libraries' networks: of the project's size, or left out with the reason."""

import importlib.util

import pytest
import torch

from minillm.benchmarking import peers
from minillm.benchmarking.decoding import left_padded
from minillm.benchmarking.worker import Unavailable
from minillm.models import MiniGPT

SIZES = {"max_length": 32, "embedding_dim": 64, "num_layers": 2, "num_heads": 4, "dropout": 0.1}
EXTRA = {"transformers": 32 * 64, "litgpt": 0}  # GPT-2 has learned positions


@pytest.mark.parametrize("library", peers.BUILDERS)
def test_a_peer_has_as_many_parameters_and_takes_the_same_batches(library: str) -> None:
    if reason := peers.missing(library):
        pytest.skip(reason)
    network = peers.build(library, 300, SIZES)
    own = MiniGPT(vocab_size=300, max_length=32, embedding_dim=64, num_layers=2, num_heads=4)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == sum(parameter.numel() for parameter in own.parameters()) + EXTRA[library]
    output = network(torch.randint(4, 300, (2, 32)))
    logits = output if isinstance(output, torch.Tensor) else output.logits
    assert logits.shape == (2, 32, 300)


@pytest.mark.parametrize("library", peers.BUILDERS)
def test_a_peer_that_is_missing_is_left_out_with_how_to_install_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=f"{library} is not installed: pip install"):
        peers.build(library, 300, SIZES)


def test_prompts_end_together_and_their_padding_is_masked() -> None:
    batch = left_padded([[2, 7], [2, 5, 6, 9]], "cpu")
    assert batch["input_ids"].tolist() == [[0, 0, 2, 7], [2, 5, 6, 9]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
