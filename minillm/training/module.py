"""What training does with a network, behind Lightning's interface."""

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
    """Return what torch.compile lacks for code that runs on a device; None: nothing."""
    if device.type == "cuda":
        return None if has_triton() else "Triton"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    return None if any(shutil.which(name) for name in compilers if name) else "a C++ compiler"


def _compiled_in_training(block: nn.Module) -> Callable[..., Any]:
    """Return a block's forward: compiled in training, the plain one in validation and for decoding."""
    plain, compiled = block.forward, torch.compile(block.forward)
    return lambda *arguments: (compiled if block.training else plain)(*arguments)


class HeadedNetwork(Protocol):
    """A network whose logits are linear in what it returns as hidden."""

    head: nn.Linear
    """Without a bias."""

    def hidden(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return (B, T, D); times the head's weight they are the logits."""


# Where what is logged belongs to one step.
STEP_HOOKS = frozenset(("on_train_batch_start", "training_step", "on_before_optimizer_step", "on_train_batch_end"))


class TrainingModule(L.LightningModule):
    """Next-token training of a network, and its figures on validation and test.

    Args:
        network: maps ``inputs`` (B, T) and ``documents`` (B, T) or None to logits (B, T, V); for a `HeadedNetwork`
            the loss never holds all of them.
        tokenizer: goes into the checkpoint, which is so complete in itself.
        optimizer: makes the optimizer of the named parameters, as any of PyTorch's does.
        scheduler: makes the learning-rate scheduler of the optimizer and the number of steps, stepped every step; with
            a keyword ``done`` it can know the share that is done by a limit of time or tokens, see `warmup_schedule`.
        label_smoothing: share of each target that is spread over the vocabulary, for the gradient only.
        compile: whether torch.compile makes the training step's code: ``on``, ``off``, or ``auto``: on a GPU, where
            it can. On the processor the code that it makes is slower.
        settings: the run's whole configuration, as plain values: goes into the checkpoint.

    Raises:
        SettingError: label_smoothing outside [0, 1), another word for compile, or a value that the optimizer refuses.
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
        if isinstance(compile, bool):  # YAML reads a bare on or off as true or false
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
        self._device_mesh: DeviceMesh | None = None  # of a strategy that shards, which sets it
        self.val_metrics, self.test_metrics = LanguageModelling(), LanguageModelling()

    def _check_optimizer(self) -> None:
        """Find a bad setting now, and not when the training begins."""
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
        """Let the optimizer be made with another learning rate; what the checkpoint says of it follows."""
        self.make_optimizer = partial(self.make_optimizer, lr=lr)  # type: ignore[call-arg] # an optimizer's keyword
        if "optimizer" in self.settings:
            self.settings["optimizer"]["lr"] = lr

    def forward(self, inputs: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the network's logits (B, T, V)."""
        # A network that knows nothing of documents serves as well, where each row is one.
        return self.network(inputs) if documents is None else self.network(inputs, documents)

    def configure_model(self) -> None:
        """Share out the network's parameters where the strategy wants that; see `minillm.training.sharding`."""
        if self._device_mesh is not None:
            shard(self.network, self._device_mesh["data_parallel"])
            self._hidden_or_logits = getattr(self.network, "hidden", self.network)

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Check that a trainer can train this; before anything is read.

        Raises:
            SettingError: it shards the parameters or recomputes activations, and network or optimizer cannot have that.
        """
        if isinstance(trainer.strategy, FullySharded):
            blocks_of(self.network, "trainer.strategy", FullySharded.name)
            check_optimizer(self.make_optimizer(self.network.named_parameters()))
        if any(isinstance(callback, ActivationCheckpointing) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            blocks_of(self.network, "trainer.activation_checkpointing", True)

    def on_fit_start(self) -> None:
        """Choose the code of the training step; validation and test keep the plain one.

        Raises:
            SettingError: compile is on and the machine lacks what it needs.
        """
        missing = missing_for_compile(self.device)
        if self.compile_mode == "on" and missing:
            raise SettingError("training.compile", "on", f"needs {missing}; off would do")
        if self.compile_mode == "on" or (self.compile_mode == "auto" and self.device.type == "cuda" and not missing):
            if is_sharded(self.network):  # its blocks: what gathers their parameters is not to be compiled
                for block in blocks_of(self.network, "training.compile", self.compile_mode):
                    block.forward = _compiled_in_training(block)
            else:
                self._hidden_or_logits = torch.compile(self._hidden_or_logits)

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Log a figure; of a step that no logger takes (``log_every_n_steps``) nothing is kept.

        Lightning's bookkeeping of a step's figures would cost two per cent of a small network's step.
        """
        trainer = self._trainer
        in_step = self._current_fx_name in STEP_HOOKS
        if trainer and trainer.training and in_step and not trainer._logger_connector.should_update_logs:
            return
        super().log(name, *args, **kwargs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the smoothed loss of a batch; log it and the plain one."""
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
        """Return the most probable tokens (B, T), [PAD] at padding; add the batch to the split's figures."""
        return self._evaluation_step(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the most probable tokens (B, T), [PAD] at padding; add the batch to the split's figures."""
        return self._evaluation_step(self.test_metrics, batch)

    def _evaluation_step(self, metrics: LanguageModelling, batch: Batch) -> Tensor:
        # Figures are float32 whatever the training's precision: they equal those of the loaded checkpoint.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(batch["inputs"], batch.get("documents"))
        predictions = predict(logits, batch["targets"])
        metrics.update(predictions, batch)
        return predictions.guesses

    def on_validation_epoch_end(self) -> None:
        """Log the validation split's figures."""
        self._log_figures("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test split's figures."""
        self._log_figures("test", self.test_metrics)

    def _log_figures(self, split: str, metrics: LanguageModelling) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{split}/{name}", value.float(), prog_bar=name == "loss")
        metrics.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Make the optimizer and its schedule, stepped every optimizer step and logged as ``lr``.

        Raises:
            SettingError: validation after more batches than an epoch has.
        """
        optimizer = self.make_optimizer(self.network.named_parameters())
        try:
            steps = self.trainer.estimated_stepping_batches
        except ValueError as error:  # the first place at which Lightning knows how many batches there are
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
        """Add what makes a checkpoint complete in itself: configuration, tokenizer, figures; all plain values."""
        checkpoint["config"] = self.settings
        checkpoint["tokenizer"] = self.tokenizer.to_json()
        checkpoint["metrics"] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
