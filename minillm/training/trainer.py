"""The trainer, with what it chooses by itself."""

import contextlib
import ctypes
import logging
import sys
import warnings
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from minillm.configuration import check_arguments
from minillm.errors import SettingError
from minillm.training.checkpoint_io import WholeCheckpoints


def has_fast_bfloat16(accelerator: str) -> bool:
    """Return whether the processor, or the GPU that the accelerator stands for, multiplies bfloat16 in hardware."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in ("auto", "cpu"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors give back, where it is GNU's.

    By default it returns every large block to the system at once, and a training step on the processor then spends two
    fifths of its time on page faults to get the same blocks again.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: bytes from which a block is mapped on its own
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free bytes from which the heap shrinks


def build_trainer(accelerator: str = "auto", precision: str | int = "auto", **options: Any) -> L.Trainer:
    """Return Lightning's Trainer.

    Args:
        accelerator: as Lightning has it.
        precision: as Lightning has it; ``auto`` is bf16-mixed where the machine has bfloat16 in hardware, else 32-true.
        options: any further argument of Lightning's Trainer.

    Raises:
        SettingError: an argument that Lightning refuses.
    """
    keep_freed_memory()
    if precision == "auto":
        precision = "bf16-mixed" if has_fast_bfloat16(accelerator) else "32-true"
    # Lightning's hints and advice: the project has followed or answered them.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*number of training batches.*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
    check_arguments(L.Trainer, options)
    options["plugins"] = [WholeCheckpoints(), *(options.get("plugins") or [])]
    try:
        return L.Trainer(accelerator=accelerator, precision=cast(Any, precision), **options)
    except (TypeError, ValueError, MisconfigurationException) as error:
        chosen = {"accelerator": accelerator, "precision": precision, **options}
        text = " ".join(str(error).split())
        culprit = next((name for name in chosen if name in text), "accelerator")
        raise SettingError(culprit, chosen[culprit], text) from error
