"""What a network's logits say of each target: the one place in which logits become figures."""

from typing import NamedTuple

import torch
from torch import Tensor

from minillm.tokenization import PAD

# Logits turned into probabilities at a time. On the processor 1 MiB of them stays in its cache from one operation to
# the next, which takes half the time of going through a batch's logits again and again; a GPU wants large pieces.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**26


class Predictions(NamedTuple):
    """What is predicted at each place, (B, T) but for the last; places whose target is [PAD] do not count."""

    targets: Tensor
    """The true tokens, [PAD] where there is none."""
    nats: Tensor
    """float32: -ln of the target's probability; 0 at padding."""
    guesses: Tensor
    """The most probable token; [PAD] at padding."""
    confidences: Tensor
    """float32: the most probable token's probability; 0 at padding."""
    distribution: Tensor | None
    """(V,) float32: the sum of the predicted distributions over all places with a target; None: not asked for."""

    @property
    def counted(self) -> Tensor:
        """(B, T) whether there is a target."""
        return self.targets != PAD

    def to(self, device: torch.device) -> "Predictions":
        """Return the same on a device."""
        distribution = None if self.distribution is None else self.distribution.to(device)
        targets, nats, guesses, confidences = (each.to(device) for each in self[:4])
        return Predictions(targets, nats, guesses, confidences, distribution)


def predict(logits: Tensor, targets: Tensor, with_distribution: bool = False) -> Predictions:
    """Return what logits say of the targets.

    Args:
        logits: (B, T, V), of any floating type; the arithmetic is float32.
        targets: (B, T), [PAD] where there is none.
        with_distribution: whether the sum of the predicted distributions is wanted too.
    """
    vocab_size = logits.size(-1)
    flat = logits.flatten(0, -2)
    places = torch.nonzero(targets.flatten() != PAD).flatten()
    nats = torch.zeros(targets.numel(), device=logits.device)
    confidences = torch.zeros_like(nats)
    guesses = torch.full_like(targets.flatten(), PAD)
    distribution = nats.new_zeros(vocab_size) if with_distribution else None
    rows = max(1, LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE) // vocab_size)
    for chosen in places.split(rows) if len(places) else ():
        given = _rows(flat, chosen).float()
        target = targets.flatten()[chosen]
        highest, guess = _highest(given)
        scores = given - highest  # a copy: the caller's logits stay
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


def _rows(flat: Tensor, places: Tensor) -> Tensor:
    """Return some rows, as a view where they lie side by side; on a GPU to look at the places takes longer."""
    if flat.device.type == "cpu":
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 == len(places):
            return flat[first : last + 1]
    return flat[places]


def _highest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest score of each row and its place, (N, 1) each; of equal ones the first."""
    if scores.device.type != "cpu":
        return scores.max(dim=-1, keepdim=True)
    # NumPy's search takes a twelfth of the time of PyTorch's, which compares one number after another.
    place = torch.from_numpy(scores.detach().numpy().argmax(axis=-1, keepdims=True))
    return scores.gather(-1, place), place
