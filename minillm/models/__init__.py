"""Networks: PyTorch modules that map token ids to logits, independent of Lightning, Hydra and files."""

from minillm.models.cache import KeyValueCache
from minillm.models.gpt2 import GPT2
from minillm.models.minigpt import MiniGPT
from minillm.models.minigpt_modern import MiniGPTModern

__all__ = ["GPT2", "KeyValueCache", "MiniGPT", "MiniGPTModern"]
