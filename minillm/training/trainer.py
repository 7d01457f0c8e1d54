"""The trainer: Lightning's, with automatic choices and checks."""

import contextlib
import ctypes
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import disable_possible_user_warnings
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    StrategyRegistry,
)

from minillm.clock import TrainingClock
from minillm.configuration import check_arguments
from minillm.durations import parse_duration
from minillm.errors import SettingError
from minillm.launch import launched
from minillm.training.checkpoint_io import WholeCheckpoints
from minillm.training.divergence import Divergence
from minillm.training.recomputing import ActivationCheckpointing
from minillm.training.sharding import FullySharded


class Bound(NamedTuple):
    """The range of a numeric argument of Lightning's.

    Args:
        smallest: the minimum.
        advice: the range, for the error.
        without_smallest: the value must be greater than the minimum.
        special: a number with a meaning of its own.
    """

    smallest: float
    advice: str
    without_smallest: bool = False
    special: float | None = None

    def allows(self, value: float) -> bool:
        """Return whether a number is in the range; NaN is not."""
        is_enough = value > self.smallest or (value == self.smallest and not self.without_smallest)
        return value == self.special or (is_enough and value <= LARGEST)


MOST_TOKENS = 10**15  # more than all text
LARGEST = 10**9  # of any such number: larger ones overflow estimates of time
_BATCHES = Bound(0, "must be a share of the batches from 0.0 to 1.0, or a number of them")
# Arguments that Lightning's Trainer does not check, or only after the training has started.
BOUNDS = {
    "devices": Bound(1, "must be at least 1, or -1 for all there are", special=-1),
    "num_nodes": Bound(1, "must be at least 1"),
    "max_epochs": Bound(0, "must be at least 0, such as 15, or -1 for no end", special=-1),
    "min_epochs": Bound(0, "must be at least 0, or null"),
    "max_steps": Bound(0, "must be at least 0, or -1 for no end", special=-1),
    "min_steps": Bound(0, "must be at least 0, or null"),
    "limit_train_batches": _BATCHES,
    "limit_val_batches": _BATCHES,
    "limit_test_batches": _BATCHES,
    "limit_predict_batches": _BATCHES,
    "overfit_batches": _BATCHES,
    "fast_dev_run": Bound(0, "must be true, false or a number of batches"),
    "val_check_interval": Bound(
        0, "must be over 0: a share of the epoch up to 1.0, or a number of batches", without_smallest=True
    ),
    "check_val_every_n_epoch": Bound(1, "must be at least 1; trainer.limit_val_batches=0 validates never"),
    "num_sanity_val_steps": Bound(0, "must be at least 0, or -1 for all validation batches", special=-1),
    "log_every_n_steps": Bound(1, "must be at least 1, such as 10"),
    "accumulate_grad_batches": Bound(1, "must be at least 1"),
    "gradient_clip_val": Bound(0, "must be at least 0, or null"),
    "reload_dataloaders_every_n_epochs": Bound(0, "must be at least 0"),
}

# Sharding strategies; gradient clipping, Muon and checkpoints support only `FullySharded`.
SHARDING: tuple[type, ...] = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
# Lightning's callbacks that copy or replace weights.
NEEDS_WHOLE_WEIGHTS = (BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging, WeightAveraging)
# Precisions that keep weights in float32 or float64, so that metrics are computed in these, too.
FULL_PRECISIONS = (Precision, DoublePrecision, MixedPrecision)


def has_fast_bfloat16(accelerator: str) -> bool:
    """Return whether the CPU, or the GPU if the accelerator selects it, multiplies bfloat16 in hardware."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in ("auto", "cpu"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def keep_freed_memory() -> None:
    """Make GNU's C library keep freed memory instead of returning it to the system.

    By default it returns each large block at once, and a training step on a CPU then spends two fifths of its time on
    page faults to get the same blocks again.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: larger blocks, in bytes, are mapped separately
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: with more free bytes the heap shrinks


def build_trainer(
    accelerator: str = "auto",
    precision: str | int = "auto",
    activation_checkpointing: bool = False,
    max_time: str | Mapping[str, float] | None = None,
    max_tokens: int | None = None,
    started_by: str | None = None,
    **options: Any,
) -> L.Trainer:
    """Return Lightning's Trainer, which also stops a training that diverges, see `Divergence`.

    Args:
        accelerator: as in Lightning.
        precision: as in Lightning, but not a precision with weights in half precision: metrics are always float32.
            ``auto``: bf16-mixed if the hardware has bfloat16, otherwise 32-true.
        activation_checkpointing: keep only each block's input for the gradient and recompute the block: same results,
            less memory, about a third more computation.
        max_time: the training ends, with a validation, at the first step after this time; ``DD:HH:MM:SS``,
            ``1h30min``, or numbers by unit such as ``{minutes: 90}``. A resumed run continues to count. None: no limit.
        max_tokens: the training ends, with a validation, at the first step at which it has seen this many tokens, over
            all processes and epochs, without padding. None: no limit.
        started_by: ``srun`` or ``torchrun``: refuse to run in a process that it did not start. None: run in any.
        options: further arguments of Lightning's Trainer; ``devices`` and ``num_nodes`` can be ``auto``: as many as
            srun or torchrun started, otherwise all devices of this machine.

    Raises:
        SettingError: an argument that cannot work.
    """
    keep_freed_memory()
    if precision == "auto":
        precision = "bf16-mixed" if has_fast_bfloat16(accelerator) else "32-true"
    # Lightning's hints and warnings that the project has dealt with.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_possible_user_warnings()
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
    _fit_to_launch(options, started_by)
    check_arguments(L.Trainer, options)
    _check_numbers(options)
    _check_strategy(options.get("strategy"))
    if max_tokens is not None and not 1 <= max_tokens <= MOST_TOKENS:
        advice = f"must be at least 1, such as 10000000, and at most {MOST_TOKENS}, or null"
        raise SettingError("max_tokens", max_tokens, advice)
    # Always there: a resumed run continues to count from the clock's state in the checkpoint.
    clock = TrainingClock(_time_limit(max_time), max_tokens)
    callbacks = options.pop("callbacks", None) or []
    callbacks = [Divergence(), clock, *(callbacks if isinstance(callbacks, list) else [callbacks])]
    if activation_checkpointing:
        callbacks.append(ActivationCheckpointing())
    strategy = options.get("strategy")
    if strategy == FullySharded.name or isinstance(strategy, FullySharded):
        options["inference_mode"] = False  # tensors gathered in inference mode cannot be used in training
    options["plugins"] = [WholeCheckpoints(), *_environment(), *(options.get("plugins") or [])]
    try:
        trainer = L.Trainer(accelerator=accelerator, precision=cast(Any, precision), callbacks=callbacks, **options)
    except (TypeError, ValueError, ImportError, RuntimeError, MisconfigurationException) as error:
        chosen = {"accelerator": accelerator, "precision": precision, **options}
        text = " ".join(str(error).split())
        named = [name for name in chosen if name in text]
        named += [name for name, value in chosen.items() if str(value).replace("-", "_") in text]
        culprit = named[0] if named else "accelerator"
        raise SettingError(culprit, chosen[culprit], text) from error
    _check_launch(trainer, options)
    if type(trainer.precision_plugin) not in FULL_PRECISIONS:
        advice = "keeps the weights in half precision, and metrics would not be float32; bf16-mixed would do"
        raise SettingError("precision", trainer.precision_plugin.precision, advice)
    if isinstance(trainer.strategy, FullySharded):
        _check_sharded(trainer)
    return trainer


def _check_sharded(trainer: L.Trainer) -> None:
    """Refuse what does not work, or is not known to work, with sharded parameters."""
    if not isinstance(trainer.accelerator, CPUAccelerator | CUDAAccelerator):
        name = type(trainer.accelerator).__name__
        raise SettingError("accelerator", name, "does not work with strategy=fsdp2; cpu and gpu do")
    if trainer.precision not in ("32-true", "bf16-mixed"):
        advice = "does not work with strategy=fsdp2; bf16-mixed and 32-true do"
        raise SettingError("precision", trainer.precision, advice)
    if trainer.gradient_clip_val is not None:
        advice = "does not work with strategy=fsdp2; callbacks.gradient_clipping.max_norm does"
        raise SettingError("gradient_clip_val", trainer.gradient_clip_val, advice)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if getattr(callback, "needs_whole_weights", False) or isinstance(callback, NEEDS_WHOLE_WEIGHTS):
            name = type(callback).__name__
            advice = f"shards the weights, and the callback {name} does not work with that; leave it out, or use ddp"
            raise SettingError("strategy", FullySharded.name, advice)


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name in BOUNDS and not BOUNDS[name].allows(value):
            raise SettingError(name, value, f"at most {LARGEST} would do" if value > LARGEST else BOUNDS[name].advice)


def _check_strategy(strategy: Any) -> None:
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    kind = StrategyRegistry[name]["strategy"] if name in StrategyRegistry else type(strategy)
    if issubclass(kind, SHARDING) and kind is not FullySharded:
        parts = "gradient clipping, Muon and checkpoints"
        advice = f"shards the parameters, but {parts} do not support it; {FullySharded.name} (trainer=fsdp) would do"
        raise SettingError("strategy", name, advice)


def _fit_to_launch(options: dict[str, Any], started_by: str | None) -> None:
    """Set numbers of nodes and devices that are ``auto`` to what srun or torchrun started."""
    process = launched()
    by = None if process is None else process.by
    if started_by is not None and by != started_by:
        advice = f"but {by or 'neither srun nor torchrun'} started this process"
        raise SettingError("started_by", started_by, f"{advice}; {started_by} ... python scripts/train.py")
    if options.get("num_nodes") == "auto":
        options["num_nodes"] = process.nodes if process else 1
    if process is not None and process.world_size > 1:
        if process.per_node is None:
            advice = f"{process.by} started {process.world_size} processes, not equally many on each"
            raise SettingError("num_nodes", process.nodes, f"{advice}; --ntasks-per-node does")
        if options.get("devices") == "auto":
            options["devices"] = process.per_node


def _environment() -> list[Any]:
    """Return Lightning's plugin for how the processes find each other, if that is known; Lightning would guess."""
    process = launched()
    if process is not None and process.world_size > 1:
        if process.by == "torchrun":
            return [TorchElasticEnvironment()]
        return [SLURMEnvironment(auto_requeue=False)]  # `minillm.signals` requeues
    in_job = "SLURM_JOB_ID" in os.environ
    return [LightningEnvironment()] if process is not None or in_job or shutil.which("srun") else []


def _check_launch(trainer: L.Trainer, options: Mapping[str, Any]) -> None:
    """Refuse a training in other than the started number of processes: it would wait for ever, or run twice."""
    process = launched()
    count = process.world_size if process else 1
    wanted = trainer.num_devices * trainer.num_nodes if isinstance(trainer.strategy, ParallelStrategy) else 1
    if process is not None and count > 1 and wanted == 1:
        advice = f"trains in one process, and {process.by} started {count}; trainer=ddp shares the work among them"
        raise SettingError("strategy", options.get("strategy", "auto"), advice)
    if process is not None and count > 1 and wanted != count:
        advice = f"on {trainer.num_nodes} machines is {wanted} processes, and {process.by} started {count}"
        raise SettingError("devices", trainer.num_devices, f"{advice}; auto would do for devices and num_nodes")
    if count == 1 and trainer.num_nodes > 1:
        advice = "needs a process on each machine, and this one was started alone; start them by srun or torchrun"
        raise SettingError("num_nodes", trainer.num_nodes, advice)


def _time_limit(max_time: str | Mapping[str, float] | None) -> timedelta | None:
    if max_time is None:
        return None
    try:
        limit = parse_duration(max_time) if isinstance(max_time, str) else timedelta(**max_time)
    except (OverflowError, TypeError, ValueError):
        limit = timedelta()
    if limit <= timedelta():
        advice = "must be a time over 0, such as 00:01:30:00 (DD:HH:MM:SS) or 1h30min, or null"
        raise SettingError("max_time", max_time, advice)
    return limit
