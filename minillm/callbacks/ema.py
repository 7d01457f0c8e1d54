"""An exponential moving average of the weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from minillm.errors import SettingError
from minillm.training import TrainingModule


class EMA(L.Callback):
    """Keeps an exponential moving average of the weights (Polyak and Juditsky 1992), and validates with it.

    After the n-th optimizer step, average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)), so
    that the random initial weights fade quickly. The network has the average during validations and after training. A
    checkpoint's ``state_dict`` is always the average; the weights to continue training from are in this callback's
    state.

    Args:
        decay: factor of the average at each step; it averages over about 1 / (1 - decay) steps.

    Raises:
        SettingError: decay outside [0, 1).
    """

    needs_whole_weights = True

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise SettingError("decay", decay, "must be at least 0 and under 1, such as 0.999")
        self.decay = decay
        self.updates = 0
        self._parameters: list[Tensor] = []  # of the network
        self._others: list[Tensor] = []  # the average; or the trained weights while the network has the average
        self._network_holds_average = False
        self._loaded: list[Tensor] | None = None
        self._steps = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start with the current weights."""
        assert isinstance(pl_module, TrainingModule)
        self._parameters = list(pl_module.network.parameters())
        self._others = [parameter.detach().clone() for parameter in self._parameters]
        self._network_holds_average = False

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Put the trained weights back into the network."""
        self._let_network_hold(average=False)
        self._steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Add the weights to the average, if there was an optimizer step."""
        if trainer.global_step > self._steps:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self._others, self._parameters, 1 - decay)
            self.updates += 1

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the network."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._let_network_hold(average=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the network."""
        self._let_network_hold(average=True)

    @torch.no_grad()
    def _let_network_hold(self, average: bool) -> None:
        if self._loaded is not None:  # after loading a checkpoint the network has its state_dict: the average
            torch._foreach_copy_(self._others, self._loaded)
            self._network_holds_average, self._loaded = True, None
        if self._network_holds_average != average:
            held: list[Tensor] = [parameter.clone() for parameter in self._parameters]
            torch._foreach_copy_(self._parameters, self._others)
            self._others, self._network_holds_average = held, average

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the network's weights."""
        if not self._network_holds_average:
            assert isinstance(pl_module, TrainingModule)
            average = dict(zip(self._parameters, self._others, strict=True))
            for name, parameter in pl_module.network.named_parameters(remove_duplicate=False):
                checkpoint["state_dict"][f"network.{name}"] = average[parameter]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the number of averaged steps and the trained weights."""
        weights = self._others if self._network_holds_average else [p.detach() for p in self._parameters]
        return {"updates": self.updates, "weights": weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.updates, self._loaded = state_dict["updates"], state_dict["weights"]
