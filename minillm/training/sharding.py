"""Training of networks that do not fit one device: each process holds a share of weights, gradients and averages.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023 describe the method) shares out the rows of each
parameter, and has a block's parameters whole on each process only while that block computes. A checkpoint is the same
as that of one process.
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
    """Return what this process holds of a tensor: its share of a sharded one, in the same memory, else all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as if nobody shared it: all processes have to ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(share: Tensor, like: Tensor) -> Tensor:
    """Return the whole tensor of which each process gives its share; see `whole`.

    Args:
        share: as `local` returns it.
        like: the tensor whose form and sharing it has.
    """
    if not isinstance(like, DTensor):
        return share
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(share, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a tensor that all of them have whole; nothing is sent.

    Args:
        tensor: the whole.
        like: the tensor whose sharing it gets.
    """
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def is_sharded(network: nn.Module) -> bool:
    """Return whether a network's forward needs all processes together."""
    return isinstance(network, FSDPModule)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Share out a network's parameters, which have to be the same on all processes; once is enough.

    Embedding, last norm and head are one unit, and whole from a step's forward to the end of its backward: so the loss
    may take the head's weight behind the network's back. A network's ``hidden`` is as good a way in as its forward.

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
    """Check that an optimizer's steps are right where each process sees a share of each parameter.

    Raises:
        SettingError: it is not known to be.
    """
    knows_shares = getattr(optimizer, "knows_shares", False)
    if not (knows_shares or type(optimizer) in (Adam, AdamW, torch.optim.SGD)):
        advice = f"is not known to work with trainer.strategy={FullySharded.name}; optimizer=adamw or muon would do"
        raise SettingError("optimizer._target_", type(optimizer).__name__, advice)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes, with checkpoints that do not depend on their number.

    A checkpoint is one file, just as one process would write it: the first process gathers a tensor at a time in its
    main memory. It alone reads one too, and sends each its share.
    """

    name = "fsdp2"

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning hands over what `load_checkpoint` returned of optimizers."""
        return True

    def setup_environment(self) -> None:
        """Share over all processes there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return all weights, whole, on the first process; nothing on the others."""
        assert self.lightning_module is not None
        return self._on_first(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's state, its averages whole, on the first process; its settings alone on the others."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        saved = optimizer.state_dict()
        states = {number: self._on_first(state) for number, state in saved["state"].items()}
        return {**saved, "state": states if self.is_global_zero else {}}

    def _on_first(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return values, their tensors whole and in main memory, one at a time; nothing but on the first process."""
        kept = {}
        for name, value in tensors.items():
            full = whole(value).detach() if isinstance(value, Tensor) else value
            if self.is_global_zero:
                kept[name] = full.cpu() if isinstance(value, DTensor) else full
        return kept

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Return what a checkpoint holds; of what is shared out, all but the first process have forms alone.

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
            {**saved, "state": {number: _forms(state) for number, state in saved["state"].items()}}
            for saved in checkpoint.get("optimizer_states", [])
        ]
        return {**checkpoint, "state_dict": weights, "optimizer_states": optimizers}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Share out the weights of a checkpoint."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _shared_out(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Share out the optimizers' averages."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            states = dict(saved["state"])
            for theirs, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True):
                for number, parameter in zip(theirs["params"], ours["params"], strict=True):
                    state = states.get(number, {})
                    states[number] = {name: _shared_out(value, parameter) for name, value in state.items()}
            optimizer.load_state_dict({**saved, "state": {key: state for key, state in states.items() if state}})
            _optimizer_to_device(optimizer, self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint, as on one process."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)


def _forms(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's averages without their memory; counts of steps stay."""
    return {
        name: value.to("meta") if isinstance(value, Tensor) and value.ndim else value for name, value in state.items()
    }


def _shared_out(value: Any, like: Tensor | None) -> Any:
    """Return a tensor of a checkpoint, which the first process has, shared as another is."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or not value.ndim:
        return value
    if value.is_meta:
        value = torch.empty(value.shape, dtype=value.dtype)  # a place in the sending; it is never touched
    return distribute_tensor(value, like.device_mesh, like.placements)


StrategyRegistry.register(FullySharded.name, FullySharded, "FSDP2 over all processes", override=True)
