"""Fully sharded training: each process holds a shard of weights, gradients and optimizer state.

For networks that do not fit on one device. PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`; the method: Zhao et
al. 2023) shards each parameter by rows, and gathers a block's parameters only while that block computes. Checkpoints
are the same as those of one process.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Adam, AdamW, Optimizer

from minillm.errors import MiniLLMError, SettingError
from minillm.training.recomputing import blocks_of


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, in the same memory; all of a tensor that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(shard: Tensor, like: Tensor) -> Tensor:
    """Return the full tensor whose shards the processes hold; all processes must call this together.

    Args:
        shard: this process's, as `local` returns it.
        like: a tensor of the same shape that is sharded in the same way.
    """
    if not isinstance(like, DTensor):
        return shard
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(shard, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def shard_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a tensor that all processes have; without communication.

    Args:
        tensor: the full tensor.
        like: a tensor that is sharded in the wanted way.
    """
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def is_sharded(network: nn.Module) -> bool:
    """Return whether a network's parameters are sharded."""
    return isinstance(network, FSDPModule)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network's parameters, which must be equal on all processes; does nothing if they are sharded already.

    Embedding, last norm and head form one unit, which stays gathered from a step's forward to the end of its backward
    pass, so the loss can use the head's weight directly. ``hidden`` gathers parameters as ``forward`` does.

    Args:
        network: with ``blocks``.
        mesh: the processes, in one dimension.
    """
    if is_sharded(network):
        return
    for block in blocks_of(network, "trainer.strategy", FullySharded.name):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    if hasattr(network, "hidden"):
        register_fsdp_forward_method(network, "hidden")


def check_optimizer(optimizer: Optimizer) -> None:
    """Check that an optimizer works with sharded parameters.

    Raises:
        SettingError: it is not known to.
    """
    supports_sharding = getattr(optimizer, "supports_sharding", False)
    if not (supports_sharding or type(optimizer) in (Adam, AdamW, torch.optim.SGD)):
        advice = f"is not known to work with trainer.strategy={FullySharded.name}; optimizer=adamw or muon would do"
        raise SettingError("optimizer._target_", type(optimizer).__name__, advice)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all processes, with checkpoints that do not depend on their number.

    A checkpoint is one file, equal to that of one process: the first process gathers one tensor at a time in its main
    memory. Only the first process reads a checkpoint; it sends the others their shards.
    """

    name = "fsdp2"

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning calls `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Shard over all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return all weights in full on the first process; nothing on the others."""
        assert self.lightning_module is not None
        return self._on_first(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's full state on the first process; only its settings on the others."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        saved = optimizer.state_dict()
        states = {number: self._on_first(state) for number, state in saved["state"].items()}
        return {**saved, "state": states if self.is_global_zero else {}}

    def _on_first(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return values with full tensors in main memory, gathered one at a time; nothing on the other processes."""
        kept = {}
        for name, value in tensors.items():
            full = whole(value).detach() if isinstance(value, Tensor) else value
            if self.is_global_zero:
                kept[name] = full.cpu() if isinstance(value, DTensor) else full
        return kept

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the content of a checkpoint; processes other than the first get meta tensors for sharded ones.

        Raises:
            MiniLLMError: the first process cannot read it; on all processes.
        """
        read: tuple[dict[str, Any], MiniLLMError | None] = {}, None
        checkpoint: dict[str, Any] = {}
        if self.is_global_zero:
            try:
                checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
                read = self._outlined(checkpoint), None
            except MiniLLMError as error:
                read = {}, error
        outline, problem = self.broadcast(read)
        if problem is not None:
            raise problem
        return checkpoint if self.is_global_zero else outline

    def _outlined(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        shared = {name for name, value in own.items() if isinstance(value, DTensor)}
        weights = {
            name: value.to("meta") if name in shared else value for name, value in checkpoint["state_dict"].items()
        }
        optimizers = [
            {**saved, "state": {number: _on_meta(state) for number, state in saved["state"].items()}}
            for saved in checkpoint.get("optimizer_states", [])
        ]
        return {**checkpoint, "state_dict": weights, "optimizer_states": optimizers}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load and shard the weights of a checkpoint."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _sharded(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load and shard the state of the optimizers."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            states = dict(saved["state"])
            for theirs, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True):
                for number, parameter in zip(theirs["params"], ours["params"], strict=True):
                    state = states.get(number, {})
                    states[number] = {name: _sharded(value, parameter) for name, value in state.items()}
            optimizer.load_state_dict({**saved, "state": {key: state for key, state in states.items() if state}})
            _optimizer_to_device(optimizer, self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint as one process does."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)


def _on_meta(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's optimizer state with meta tensors; step counts are kept."""
    return {
        name: value.to("meta") if isinstance(value, Tensor) and value.ndim else value for name, value in state.items()
    }


def _sharded(value: Any, like: Tensor | None) -> Any:
    """Return a checkpoint's tensor, which the first process has, sharded like another tensor."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or not value.ndim:
        return value
    if value.is_meta:
        value = torch.empty(value.shape, dtype=value.dtype)  # a placeholder: the first process sends the content
    return distribute_tensor(value, like.device_mesh, like.placements)


StrategyRegistry.register(FullySharded.name, FullySharded, "FSDP2 over all processes", override=True)
