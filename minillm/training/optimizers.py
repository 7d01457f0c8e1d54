"""Optimizers: AdamW; and Muon for the hidden matrices with AdamW for the rest.

Both take a network's named parameters and distinguish their roles: matrices (linear layers inside the network),
embeddings (token embedding and head, whose rows belong to single tokens) and vectors (norms and biases).
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from minillm.errors import SettingError
from minillm.training.sharding import gathered, local, shard_of
from minillm.training.trainer import has_fast_bfloat16

NamedParameters = Iterable[tuple[str, nn.Parameter]]
Role = Literal["matrices", "embeddings", "vectors"]

MAX_GATHERED = 2**24  # elements of sharded matrices that are gathered together


def by_role(named_parameters: NamedParameters) -> dict[Role, list[nn.Parameter]]:
    """Return parameters by role; embeddings are those named ``...embedding`` or ``head``.

    >>> network = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "linear": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    >>> {role: len(parameters) for role, parameters in by_role(network.named_parameters()).items()}
    {'matrices': 1, 'embeddings': 2, 'vectors': 2}
    """
    roles: dict[Role, list[nn.Parameter]] = {"matrices": [], "embeddings": [], "vectors": []}
    for name, parameter in named_parameters:
        if parameter.ndim < 2:
            roles["vectors"].append(parameter)
        elif any(part == "head" or part.endswith("embedding") for part in name.split(".")):
            roles["embeddings"].append(parameter)
        else:
            roles["matrices"].append(parameter)
    return roles


def adamw(
    named_parameters: NamedParameters,
    lr: float = 3e-4,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decay: Literal["all", "matrices"] = "all",
) -> AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) with PyTorch's fused kernel.

    Args:
        named_parameters: of the network.
        lr: peak learning rate.
        weight_decay: factor of the weight decay, multiplied by the learning rate.
        betas: decay rates of the first and the second moment.
        eps: added to the denominator.
        decay: parameters with weight decay: ``all``, or ``matrices``: matrices and embeddings, but not biases and
            norms, as in GPT-2 and most later recipes.

    Raises:
        ValueError: PyTorch refuses a value.
    """
    if decay == "all":
        return AdamW([parameter for _, parameter in named_parameters], lr, betas, eps, weight_decay, fused=True)
    roles = by_role(named_parameters)
    groups = [
        {"params": roles["matrices"] + roles["embeddings"], "weight_decay": weight_decay},
        {"params": roles["vectors"], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr, betas, eps, weight_decay, fused=True)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (Jordan et al. 2024).

    A quintic Newton-Schulz iteration, X <- a X + (b A + c A^2) X with A = X X^T. Its coefficients make small singular
    values grow fastest; the values end between about 0.7 and 1.2, which works as well as 1.

    Args:
        matrices: (batch, rows, columns); their dtype is that of the computation.
        steps: iterations.

    Returns:
        Same shape and dtype.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the smaller Gram matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # singular values at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for embeddings, head, norms and biases.

    Muon's update is the orthogonalized momentum of the gradient: a matrix learns all directions equally fast, however
    small their part of the gradient. The update of a matrix with more rows than columns is scaled by
    sqrt(rows / columns), so that one learning rate fits all shapes. PyTorch's Muon always computes in bfloat16, which
    is 25 times slower on a CPU without it, updates one matrix at a time, and takes no other parameters.

    If the parameters are sharded, each process gathers some momentum matrices at a time, orthogonalizes them, and
    applies its shard of the update.

    Args:
        named_parameters: of the network.
        lr: peak learning rate of Muon.
        adamw_lr: peak learning rate of AdamW.
        momentum: decay rate of the average gradient.
        nesterov: whether to use Nesterov momentum.
        ns_steps: Newton-Schulz iterations.
        weight_decay: factor of the weight decay, multiplied by the learning rate; none for norms and biases.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        SettingError: a value outside its range, or a network without a parameter named ``...embedding``, whose roles
            are unknown.
    """

    supports_sharding = True

    def __init__(
        self,
        named_parameters: NamedParameters,
        lr: float = 0.02,
        adamw_lr: float = 3e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        for name, value in {"lr": lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise SettingError(name, value, "must be at least 0, such as 0.01")
        if not 0 <= momentum < 1:
            raise SettingError("momentum", momentum, "must be at least 0 and under 1, such as 0.95")
        if ns_steps < 1:
            raise SettingError("ns_steps", ns_steps, "must be at least 1, such as 5")
        roles = by_role(named_parameters)
        if not roles["matrices"] or not roles["embeddings"]:
            raise SettingError(
                "_target_", f"{__name__}.Muon", "needs a network with an `embedding` and other matrices; use AdamW"
            )
        rest = [
            {"params": roles["embeddings"], "name": "adamw", "weight_decay": weight_decay},
            {"params": roles["vectors"], "name": "adamw", "weight_decay": 0.0},
        ]
        self._adamw = AdamW([group for group in rest if group["params"]], adamw_lr, betas, eps, fused=True)
        matrices = {
            "params": roles["matrices"],
            "name": "muon",
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
        }
        super().__init__([matrices, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, *rest = self.param_groups
        self._step_matrices(matrices)
        # AdamW uses this optimizer's groups and state, which the schedule and checkpoints change.
        self._adamw.param_groups, self._adamw.state = rest, self.state
        self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [local(cast(Tensor, parameter.grad)) for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        average = [local(self.state[parameter]["momentum"]) for parameter in parameters]
        torch._foreach_lerp_(average, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, average, group["momentum"]) if group["nesterov"] else average
        torch._foreach_mul_([local(parameter) for parameter in parameters], 1 - group["lr"] * group["weight_decay"])
        # Matrices of the same shape, up to a transposition, are iterated together.
        by_shape: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, update in zip(parameters, updates, strict=True):
            by_shape.setdefault(tuple(sorted(parameter.shape)), []).append((parameter, update))
        for batch in (part for same_shape in by_shape.values() for part in _batches(same_shape)):
            dtype = _iteration_dtype(batch[0][0])
            updates = [gathered(update, parameter) for parameter, update in batch]
            wide = [(update if update.size(0) <= update.size(1) else update.mT).to(dtype) for update in updates]
            stacked = orthogonalize(torch.stack(wide), group["ns_steps"])
            for (parameter, _), direction in zip(batch, stacked, strict=True):
                rows, columns = parameter.shape
                scale = max(1.0, rows / columns) ** 0.5
                step = shard_of(direction if rows <= columns else direction.mT, parameter)
                local(parameter).add_(step, alpha=-group["lr"] * scale)


def _batches(same_shape: list[tuple[nn.Parameter, Tensor]]) -> Iterable[list[tuple[nn.Parameter, Tensor]]]:
    """Yield all matrices together or, if they are sharded, as many at a time as `MAX_GATHERED` allows."""
    matrix = same_shape[0][0]
    number = max(1, MAX_GATHERED // matrix.numel()) if isinstance(matrix, DTensor) else len(same_shape)
    for start in range(0, len(same_shape), number):
        yield same_shape[start : start + number]


def _iteration_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to orthogonalize in: bfloat16 is precise enough, and faster if the hardware has it."""
    half = tensor.dtype == torch.float32 and has_fast_bfloat16(tensor.device.type)
    return torch.bfloat16 if half else tensor.dtype
