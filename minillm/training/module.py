"""The LightningModule: training, validation and test steps of a network."""

import inspect
import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._triton import has_triton

from minillm.clock import clock_of
from minillm.data import Batch
from minillm.errors import SettingError
from minillm.tokenization import Tokenizer
from minillm.training.losses import TokenLosses, cross_entropy, linear_cross_entropy
from minillm.training.metrics import LanguageModelling
from minillm.training.predictions import predict
from minillm.training.recomputing import ActivationCheckpointing, blocks_of
from minillm.training.sharding import FullySharded, check_optimizer, is_sharded, shard


def missing_for_compile(device: torch.device) -> str | None:
    """Return which program torch.compile is missing for a device; None: none."""
    if device.type == "cuda":
        return None if has_triton() else "Triton"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    return None if any(shutil.which(name) for name in compilers if name) else "a C++ compiler"


def _compiled_in_training(block: nn.Module) -> Callable[..., Any]:
    """Return a block's forward: compiled in training, eager in validation and decoding."""
    eager, compiled = block.forward, torch.compile(block.forward)
    return lambda *arguments: (compiled if block.training else eager)(*arguments)


class HeadedNetwork(Protocol):
    """A network that consists of `hidden` and a linear `head`."""

    head: nn.Linear
    """Without a bias."""

    def hidden(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the input of the head, (B, T, D)."""


# The hooks whose logged metrics belong to one step.
STEP_HOOKS = frozenset(("on_train_batch_start", "training_step", "on_before_optimizer_step", "on_train_batch_end"))


class TrainingModule(L.LightningModule):
    """Next-token training of a network, with validation and test metrics.

    Args:
        network: maps ``inputs`` (B, T) and ``documents`` (B, T) or None to logits (B, T, V); for a `HeadedNetwork`,
            the loss never holds all logits in memory.
        tokenizer: saved in the checkpoint, which is self-contained with it.
        optimizer: maps named parameters to an optimizer, as PyTorch's optimizer classes do.
        scheduler: maps the optimizer and the number of steps to a learning-rate scheduler, stepped at every step; its
            keyword ``done``, if it has one, is the progress towards a limit of time or tokens, see `warmup_schedule`.
        label_smoothing: share of each target distribution that is uniform, for the gradient only.
        compile: whether to compile the training step by torch.compile: ``on``, ``off``, or ``auto``: on GPUs, if
            possible. On a CPU the compiled code is slower.
        settings: the run's whole configuration, as plain values; saved in the checkpoint.

    Raises:
        SettingError: label_smoothing outside [0, 1), an unknown value of compile, or one that the optimizer refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Tokenizer,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        label_smoothing: float = 0.1,
        compile: str | bool = "auto",
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise SettingError("label_smoothing", label_smoothing, "must be at least 0 and under 1, such as 0.1")
        if isinstance(compile, bool):  # YAML reads an unquoted on or off as a boolean
            compile = "on" if compile else "off"
        if compile not in ("off", "on", "auto"):
            raise SettingError("compile", compile, "must be off, on or auto")
        self.compile_mode = compile
        self.network = network
        self.tokenizer, self.settings = tokenizer, settings or {}
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self._check_optimizer()
        self.label_smoothing = label_smoothing
        self._hidden_or_logits = getattr(network, "hidden", network.forward)
        self._device_mesh: DeviceMesh | None = None  # set by a sharding strategy
        self.val_metrics, self.test_metrics = LanguageModelling(), LanguageModelling()

    def _check_optimizer(self) -> None:
        """Find a bad setting now, before the training starts."""
        try:
            self.make_optimizer(self.network.named_parameters())
        except SettingError as error:
            raise error.within("optimizer") from error
        except (TypeError, ValueError) as error:
            settings = getattr(self.make_optimizer, "keywords", {})
            message = " ".join(str(error).split())
            # PyTorch says "Invalid learning rate: -1" or "Invalid weight_decay value: -1".
            words = message.replace("learning rate", "lr").replace("beta ", "betas ").replace("epsilon", "eps")
            culprit = next((name for name in settings if re.search(rf"\b{name}\b", words)), None)
            raise SettingError(f"optimizer.{culprit or '_target_'}", settings.get(culprit), message) from error

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the optimizer and in the checkpoint's configuration, before the training starts."""
        self.make_optimizer = partial(self.make_optimizer, lr=lr)  # type: ignore[call-arg] # an optimizer's keyword
        if "optimizer" in self.settings:
            self.settings["optimizer"]["lr"] = lr

    def forward(self, inputs: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the network's logits (B, T, V)."""
        # A network without the argument ``documents`` works, too, if each row is one document.
        return self.network(inputs) if documents is None else self.network(inputs, documents)

    def configure_model(self) -> None:
        """Shard the network's parameters if the strategy does so; see `minillm.training.sharding`."""
        if self._device_mesh is not None:
            shard(self.network, self._device_mesh["data_parallel"])
            self._hidden_or_logits = getattr(self.network, "hidden", self.network)

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Check that a trainer can train this network, before any data is read.

        Raises:
            SettingError: network or optimizer do not support sharding or activation checkpointing.
        """
        if isinstance(trainer.strategy, FullySharded):
            blocks_of(self.network, "trainer.strategy", FullySharded.name)
            check_optimizer(self.make_optimizer(self.network.named_parameters()))
        if any(isinstance(callback, ActivationCheckpointing) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            blocks_of(self.network, "trainer.activation_checkpointing", True)

    def on_fit_start(self) -> None:
        """Compile the training step if that is on; validation and test are not compiled.

        Raises:
            SettingError: compile is on, but the machine lacks a program that it needs.
        """
        missing = missing_for_compile(self.device)
        if self.compile_mode == "on" and missing:
            raise SettingError("training.compile", "on", f"needs {missing}; off would do")
        if self.compile_mode == "on" or (self.compile_mode == "auto" and self.device.type == "cuda" and not missing):
            if is_sharded(self.network):  # compile its blocks only, without the code that gathers parameters
                for block in blocks_of(self.network, "training.compile", self.compile_mode):
                    block.forward = _compiled_in_training(block)
            else:
                self._hidden_or_logits = torch.compile(self._hidden_or_logits)

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Log a metric; skip it at steps that are not logged (``log_every_n_steps``), unless the epoch's mean needs it.

        Lightning's bookkeeping for such a step would take two per cent of a small network's step time.
        """
        trainer = self._trainer
        of_one_step = self._current_fx_name in STEP_HOOKS and not kwargs.get("on_epoch")
        if trainer and trainer.training and of_one_step and not trainer._logger_connector.should_update_logs:
            return
        super().log(name, *args, **kwargs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's loss with label smoothing; log it with and without."""
        losses = self._losses(batch)
        self.log("train/loss", losses.loss, prog_bar=True)
        self.log("train/loss_smoothed", losses.smoothed.detach())
        return losses.smoothed

    def _losses(self, batch: Batch) -> TokenLosses:
        inputs = batch["inputs"], *([batch["documents"]] if "documents" in batch else [])
        output = self._hidden_or_logits(*inputs)
        if hasattr(self.network, "hidden"):
            weight = cast(HeadedNetwork, self.network).head.weight
            return linear_cross_entropy(output, weight, batch["targets"], self.label_smoothing)
        return cross_entropy(output, batch["targets"], self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the most probable tokens (B, T), [PAD] at padding; add the batch to the metrics."""
        return self._evaluation_step(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the most probable tokens (B, T), [PAD] at padding; add the batch to the metrics."""
        return self._evaluation_step(self.test_metrics, batch)

    def _evaluation_step(self, metrics: LanguageModelling, batch: Batch) -> Tensor:
        # Always in float32, so that the metrics equal those of the loaded checkpoint.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(batch["inputs"], batch.get("documents"))
        predictions = predict(logits, batch["targets"])
        metrics.update(predictions, batch)
        return predictions.guesses

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, split: str, metrics: LanguageModelling) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{split}/{name}", value.float(), prog_bar=name == "loss")
        metrics.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and its schedule, which is stepped at every optimizer step and logged as ``lr``.

        Raises:
            SettingError: ``val_check_interval`` is more batches than an epoch has.
        """
        optimizer = self.make_optimizer(self.network.named_parameters())
        try:
            steps = self.trainer.estimated_stepping_batches
        except ValueError as error:  # only now does Lightning know the number of batches
            advice = f"must be at most the {self.trainer.fit_loop.max_batches} batches of an epoch"
            raise SettingError("trainer.val_check_interval", self.trainer.val_check_interval, advice) from error
        clock = clock_of(self.trainer)
        knows_limits = "done" in inspect.signature(self.make_scheduler).parameters
        limits = {"done": clock.share} if clock is not None and clock.is_limited and knows_limits else {}
        scheduler = self.make_scheduler(optimizer, None if steps == float("inf") else int(steps), **limits)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained: add configuration, tokenizer and metrics as plain values."""
        checkpoint["config"] = self.settings
        checkpoint["tokenizer"] = self.tokenizer.to_json()
        checkpoint["metrics"] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
