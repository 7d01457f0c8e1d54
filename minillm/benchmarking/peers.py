"""Other libraries' networks of the same size, in a plain loop that is as fast as they allow unchanged.

Their AdamW is PyTorch's fused one, their attention their fastest, their loss plain cross-entropy, without the label
smoothing that the project computes.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minillm.benchmarking.loops import Batch, Job, loop, prepare_device
from minillm.benchmarking.worker import Turns, Unavailable

INSTALL = {
    "transformers": "pip install -e '.[bench]'",
    # It asks for an older huggingface_hub than transformers and datasets do, but works with theirs.
    "litgpt": "pip install --no-deps litgpt jsonargparse",
}


def missing(library: str) -> str | None:
    """Return why a peer cannot take part; None if it can."""
    installed = importlib.util.find_spec(library) is not None
    return None if installed else f"{library} is not installed: {INSTALL[library]}"


def build(library: str, vocab_size: int, model: Mapping[str, Any]) -> nn.Module:
    """Return a peer's network, with random weights and an untied head, as the project's has.

    Args:
        library: transformers or litgpt.
        vocab_size: of the network.
        model: the other sizes, as in the config's ``model``.

    Raises:
        Unavailable: the library is missing, or does not work with the others.
    """
    if reason := missing(library):
        raise Unavailable(reason)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded here
    try:
        return BUILDERS[library](vocab_size, model)
    except ImportError as error:
        raise Unavailable(f"{library} cannot be imported: {error}") from error


def _transformers(vocab_size: int, model: Mapping[str, Any]) -> nn.Module:
    """GPT-2 (Radford et al. 2019): its learned positions are its only additional parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = model["dropout"]
    if isinstance(dropout, Mapping):  # by place
        dropout = max(dropout.values(), default=0.0)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=model["max_length"],
        n_embd=model["embedding_dim"],
        n_layer=model["num_layers"],
        n_head=model["num_heads"],
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def _litgpt(vocab_size: int, model: Mapping[str, Any]) -> nn.Module:
    """GPT in the form of NeoX: rotary positions; it has no dropout."""
    from litgpt import GPT, Config

    config = Config(
        name="benchmark",
        block_size=model["max_length"],
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        n_layer=model["num_layers"],
        n_head=model["num_heads"],
        n_embd=model["embedding_dim"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=True,
        attn_bias=True,
    )
    network = GPT(config)
    network.apply(network._init_weights)
    return network


BUILDERS: dict[str, Callable[[int, Mapping[str, Any]], nn.Module]] = {"transformers": _transformers, "litgpt": _litgpt}


def train(turns: Turns, job: Job, library: str, precision: str) -> None:
    """Train a peer in a plain loop; ``precision`` is 32-true or bf16-mixed."""
    torch.manual_seed(0)
    prepare_device(job.device)
    sizes = (job.vocab_size, job.settings["model"])
    with torch.device("meta"):
        build(library, *sizes)  # a library imports its parts at their first use
    turns.imported(job.device)
    network = build(library, *sizes).to(job.device)

    def loss(batch: Batch) -> Tensor:
        output = network(batch["inputs"])
        logits = output if isinstance(output, Tensor) else output.logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    adamw = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=0.01, fused=True)
    loop(turns, job, network, loss, adamw, precision)
