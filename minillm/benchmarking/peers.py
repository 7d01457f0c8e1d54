"""Other libraries' networks of the same size, in a plain loop that is as fast as it gets without changing them.

Their AdamW is PyTorch's fused one, their attention its fastest, their loss plain cross-entropy: without the label
smoothing that the project has to compute. A peer that is not installed is left out, with the reason.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minillm.arithmetic import flops_per_token
from minillm.benchmarking.loops import Batch, Loop, Rows, Sizes, prepare_device, take_part_in_decoding
from minillm.benchmarking.worker import Turns, Unavailable

INSTALL = {
    "transformers": "pip install -e '.[bench]'",
    # It asks for a huggingface_hub older than transformers and datasets do; what is used of it works with theirs.
    "litgpt": "pip install --no-deps litgpt jsonargparse",
}


def missing(library: str) -> str | None:
    """Return why a peer cannot take part; None if it can."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed: {INSTALL[library]}"
    return None


def build(library: str, sizes: Sizes) -> nn.Module:
    """Return a peer's network, with random weights and a head of its own, as the project's has.

    Raises:
        Unavailable: the library is missing, or does not work beside the others.
    """
    if reason := missing(library):
        raise Unavailable(reason)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched here
    try:
        return BUILDERS[library](sizes)
    except ImportError as error:
        raise Unavailable(f"{library} cannot be imported: {error}") from error


def _transformers(sizes: Sizes) -> nn.Module:
    """GPT-2 (Radford et al. 2019): learned positions, which are its only parameters more."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=sizes.vocab_size,
        n_positions=sizes.max_length,
        n_embd=sizes.embedding_dim,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        resid_pdrop=sizes.dropout,
        embd_pdrop=sizes.dropout,
        attn_pdrop=sizes.dropout,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def _litgpt(sizes: Sizes) -> nn.Module:
    """GPT in the form of NeoX: rotary positions, no dropout, which it does not have."""
    from litgpt import GPT, Config

    config = Config(
        name="benchmark",
        block_size=sizes.max_length,
        vocab_size=sizes.vocab_size,
        padded_vocab_size=sizes.vocab_size,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        n_embd=sizes.embedding_dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=True,
        attn_bias=True,
    )
    network = GPT(config)
    network.apply(network._init_weights)
    return network


BUILDERS: dict[str, Callable[[Sizes], nn.Module]] = {"transformers": _transformers, "litgpt": _litgpt}


def train(
    turns: Turns,
    library: str,
    precision: str,
    compiled: bool,
    sizes: dict[str, Any],
    rows: str,
    batch_size: int,
    steps: int,
    warmup: int,
    device: str,
    optimizer: dict[str, Any],
) -> None:
    """Train a peer in a plain loop.

    Args:
        turns: one's turns.
        library: transformers or litgpt.
        precision: 32-true or bf16-mixed.
        compiled: by torch.compile.
        sizes: of the network, see `Sizes`.
        rows: path of the rows to train on.
        batch_size: of them.
        steps: steps a turn.
        warmup: steps before the first turn.
        device: where to.
        optimizer: arguments of AdamW.
    """
    size = Sizes(**sizes)
    torch.manual_seed(0)
    prepare_device(device)
    with torch.device("meta"):
        build(library, size)  # a library imports its parts at their first use
    turns.imported(device)
    network = build(library, size).to(device)
    run: Callable[[Tensor], Any] = torch.compile(network) if compiled else network

    def loss(batch: Batch) -> Tensor:
        output = run(batch["inputs"])
        logits = output if isinstance(output, Tensor) else output.logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    adamw = torch.optim.AdamW(network.parameters(), fused=True, **optimizer)
    Loop(network, loss, adamw, device, precision).run(
        turns,
        Rows(rows, size.max_length, batch_size),
        steps,
        warmup,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops_per_token=flops_per_token(network, size.num_layers, size.embedding_dim, size.max_length),
        dropout=size.dropout if library == "transformers" else 0.0,
    )


def decode(
    turns: Turns, library: str, sizes: dict[str, Any], prompts: dict[str, list[list[int]]], new_tokens: int, device: str
) -> None:
    """Continue prompts with transformers' ``generate``.

    Args:
        turns: one's turns, see `take_part_in_decoding`.
        library: transformers.
        sizes: of the network, see `Sizes`.
        prompts: their ids, by their number.
        new_tokens: tokens to write after each.
        device: where to.
    """
    prepare_device(device)
    network: Any = build(library, Sizes(**sizes)).to(device).eval()
    padded = {number: left_padded(several, device) for number, several in prompts.items()}

    def write(batch: dict[str, Tensor], tokens: int) -> None:
        network.generate(
            **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0
        )

    take_part_in_decoding(turns, network, write, padded, new_tokens, sizes["max_length"], device)


def left_padded(prompts: list[list[int]], device: str) -> dict[str, Tensor]:
    """Return prompts of different lengths as one batch, as ``generate`` takes it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return {"input_ids": ids, "attention_mask": mask}
