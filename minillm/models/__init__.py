"""Networks: plain modules that map token ids to logits and know nothing of Lightning, Hydra or files."""

from minillm.models.cache import KeyValueCache
from minillm.models.minigpt import MiniGPT

__all__ = ["KeyValueCache", "MiniGPT"]
