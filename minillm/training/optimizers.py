"""Optimizers: AdamW, and Muon for the hidden matrices beside it.

Each is made from a network's named parameters and keeps their roles apart: matrices (linear layers inside the network),
embeddings (the token embedding and the head: their rows belong to single tokens) and vectors (norms and biases).
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from minillm.errors import SettingError
from minillm.training.sharding import gathered, local, share_of
from minillm.training.trainer import has_fast_bfloat16

NamedParameters = Iterable[tuple[str, nn.Parameter]]
Role = Literal["matrices", "embeddings", "vectors"]

# Elements of sharded matrices that are whole at once.
WHOLE_AT_ONCE = 2**24


def by_role(named_parameters: NamedParameters) -> dict[Role, list[nn.Parameter]]:
    """Sort parameters by what they do; the project's networks call theirs ``embedding`` and ``head``.

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
    """Return AdamW (Loshchilov and Hutter 2019), in one pass over each parameter (PyTorch's fused kernel).

    Args:
        named_parameters: of the network.
        lr: the learning rate at its peak.
        weight_decay: share of a weight that is taken off a step, times the learning rate.
        betas: decay of the averages of gradients and of their squares.
        eps: added to the denominator.
        decay: what the weight decay applies to: ``all``, or ``matrices``, embeddings among them, but neither biases nor
            norms, whose being small is no virtue (as GPT-2's and most later recipes have it).

    Raises:
        ValueError: a value that PyTorch refuses.
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
    """Bring all singular values near 1 and keep the singular vectors (Jordan et al. 2024).

    A quintic Newton-Schulz iteration, X <- a X + (b A + c A^2) X with A = X X^T. Its coefficients are those that lift
    small singular values fastest; they end between about 0.7 and 1.2, which does as well as 1.

    Args:
        matrices: (batch, rows, columns), of the type that it computes in.
        steps: of the iteration.

    Returns:
        the same shape and type.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the smaller gram matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value over 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for embeddings, head, norms and biases.

    Muon's step is the gradient's momentum, orthogonalized: every direction of a matrix is learned equally fast,
    whatever its share of the gradient. The step of a matrix that has more rows than columns is scaled by
    sqrt(rows / columns), and so one learning rate serves all shapes. PyTorch's own Muon always computes in bfloat16, on
    a processor without it 25 times slower than need be, takes one matrix at a time, and knows no other parameters.

    Where processes share out the parameters, each gathers some matrices of momenta at a time, orthogonalizes them, and
    takes its share of the step.

    Args:
        named_parameters: of the network.
        lr: Muon's learning rate at its peak.
        adamw_lr: AdamW's.
        momentum: decay of the average of gradients.
        nesterov: look ahead, at the momentum behind the next step.
        ns_steps: steps of the Newton-Schulz iteration.
        weight_decay: share of a weight that is taken off a step, times its learning rate; norms and biases keep theirs.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        SettingError: a value outside its range, or a network that has no embedding by that name, so that the roles of
            its parameters are not known.
    """

    knows_shares = True

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
                "_target_", f"{__name__}.Muon", "needs a network with an `embedding` and matrices beside it; use AdamW"
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
        # The algorithm only: groups and state are this optimizer's, as the schedule and a checkpoint know them.
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
        # Matrices of one form are iterated at once; a tall one is the transpose of a wide one.
        batches: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, update in zip(parameters, updates, strict=True):
            batches.setdefault(tuple(sorted(parameter.shape)), []).append((parameter, update))
        for batch in (part for alike in batches.values() for part in _at_once(alike)):
            dtype = _arithmetic(batch[0][0])
            updates = [gathered(update, parameter) for parameter, update in batch]
            wide = [(update if update.size(0) <= update.size(1) else update.mT).to(dtype) for update in updates]
            stacked = orthogonalize(torch.stack(wide), group["ns_steps"])
            for (parameter, _), direction in zip(batch, stacked, strict=True):
                rows, columns = parameter.shape
                scale = max(1.0, rows / columns) ** 0.5
                step = share_of(direction if rows <= columns else direction.mT, parameter)
                local(parameter).add_(step, alpha=-group["lr"] * scale)


def _at_once(alike: list[tuple[nn.Parameter, Tensor]]) -> Iterable[list[tuple[nn.Parameter, Tensor]]]:
    """Yield matrices of one form in parts: all, or few enough of sharded ones that the device can hold them whole."""
    matrix = alike[0][0]
    number = max(1, WHOLE_AT_ONCE // matrix.numel()) if isinstance(matrix, DTensor) else len(alike)
    for start in range(0, len(alike), number):
        yield alike[start : start + number]


def _arithmetic(tensor: Tensor) -> torch.dtype:
    """Return the type to orthogonalize in: rounding to bfloat16 does no harm, and is faster where hardware has it."""
    half = tensor.dtype == torch.float32 and has_fast_bfloat16(tensor.device.type)
    return torch.bfloat16 if half else tensor.dtype
