"""From logits to the figures of each target; all metrics use these."""

from typing import NamedTuple

import torch
from torch import Tensor

from minillm.tokenization import PAD

# Logits per chunk. On a CPU, chunks of 1 MiB stay in the cache between operations, which halves the time; a GPU needs
# large chunks.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**26


class Predictions(NamedTuple):
    """Predictions at each position, (B, T) but for the last field; positions with the target [PAD] do not count."""

    targets: Tensor
    """The true tokens; [PAD] at padding."""
    nats: Tensor
    """float32: -ln of the target's probability; 0 at padding."""
    guesses: Tensor
    """The most probable token; [PAD] at padding."""
    confidences: Tensor
    """float32: the most probable token's probability; 0 at padding."""
    distribution: Tensor | None
    """(V,) float32: the sum of the predicted distributions over all targets; None: not requested."""

    @property
    def counted(self) -> Tensor:
        """(B, T) whether there is a target."""
        return self.targets != PAD

    def to(self, device: torch.device) -> "Predictions":
        """Return a copy on a device."""
        distribution = None if self.distribution is None else self.distribution.to(device)
        targets, nats, guesses, confidences = (each.to(device) for each in self[:4])
        return Predictions(targets, nats, guesses, confidences, distribution)


def predict(logits: Tensor, targets: Tensor, with_distribution: bool = False) -> Predictions:
    """Return the predictions of the targets.

    Args:
        logits: (B, T, V), of any float type; computed in float32.
        targets: (B, T), [PAD] at padding.
        with_distribution: whether to sum the predicted distributions.
    """
    vocab_size = logits.size(-1)
    flat = logits.flatten(0, -2)
    positions = torch.nonzero(targets.flatten() != PAD).flatten()
    nats = torch.zeros(targets.numel(), device=logits.device)
    confidences = torch.zeros_like(nats)
    guesses = torch.full_like(targets.flatten(), PAD)
    distribution = nats.new_zeros(vocab_size) if with_distribution else None
    rows = max(1, LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE) // vocab_size)
    for chosen in positions.split(rows) if len(positions) else ():
        given = _rows(flat, chosen).float()
        target = targets.flatten()[chosen]
        highest, guess = _highest(given)
        scores = given - highest  # a copy: the caller's logits must not change
        own = scores.gather(-1, target[:, None])
        exponentials = scores.exp_()
        total = exponentials.sum(dim=-1, keepdim=True)
        nats[chosen] = (total.log() - own).squeeze(-1)
        guesses[chosen] = guess.squeeze(-1)
        confidences[chosen] = total.reciprocal().squeeze(-1)  # the highest score's exponential is 1
        if distribution is not None:
            distribution += (total.reciprocal().mT @ exponentials).squeeze(0)
    shape = targets.shape
    return Predictions(targets, nats.view(shape), guesses.view(shape), confidences.view(shape), distribution)


def _rows(flat: Tensor, positions: Tensor) -> Tensor:
    """Return rows, as a view if they are adjacent; a GPU would have to synchronize to know."""
    if flat.device.type == "cpu":
        first, last = int(positions[0]), int(positions[-1])
        if last - first + 1 == len(positions):
            return flat[first : last + 1]
    return flat[positions]


def _highest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum of each row and its index, (N, 1) each; the first index if there are equal ones."""
    if scores.device.type != "cpu":
        return scores.max(dim=-1, keepdim=True)
    # NumPy's vectorized argmax is twelve times as fast as PyTorch's.
    index = torch.from_numpy(scores.detach().numpy().argmax(axis=-1, keepdims=True))
    return scores.gather(-1, index), index
