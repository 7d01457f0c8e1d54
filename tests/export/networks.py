"""Models whose weights are drawn, large enough for logits that differ: what a format writes needs no training."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from minillm.export import TrainedRun
from minillm.language_model import LanguageModel
from minillm.models import GPT2, MiniGPT, MiniGPTModern
from minillm.tokenization import Tokenizer

FORMS = ("minigpt", "gpt2", "minigpt_modern")


def network(form: str, vocab_size: int) -> nn.Module:
    """Return a network of a form."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "max_length": 32,
        "embedding_dim": 32,
        "num_layers": 2,
        "num_heads": 4,
    }
    made: nn.Module
    if form == "minigpt_modern":
        made = MiniGPTModern(**sizes, num_kv_heads=2, rope_theta=5000.0)
    else:
        made = (MiniGPT if form == "minigpt" else GPT2)(**sizes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 2 else 0.05))
    return made


def run_of(form: str, tokenizer: Tokenizer) -> TrainedRun:
    """Return a model of a form as the run of a checkpoint."""
    return TrainedRun(LanguageModel(network(form, len(tokenizer)), tokenizer), Path("best.ckpt"))
