"""Fits laws.yaml to the trials in trials.csv: ``python -m minillm.planning.fit``.

With the names of texts, the trials on these are trained again first: ``sample``, ``small`` (the sample's first
articles) and ``large=PATH`` for a text of one's own: ``python -m minillm.planning.fit sample small large=FOLDER``.
"""

import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from scipy.optimize import least_squares

from minillm.parallel import cores
from minillm.planning.laws import FILE, Laws, laws
from minillm.planning.trials import Outcome, Trial, read, run_all, write

TRIALS = FILE.with_name("trials.csv")
CORPORA = {"sample": ["data=sample"], "small": ["data=sample", "data.num_articles=128"]}
FILES = "data=files data.source.path={}"
NOISE = 0.01  # bits per byte between seeds
# What the literature says, and how far the fit may go from it: a mean and a standard deviation.
PRIORS = {
    "irreducible": (1.0, 0.5),
    "weights_exponent": (0.34, 0.1),  # Hoffmann et al. 2022, the third approach
    "data_exponent": (0.28, 0.1),
    "repeats": (math.log(15.4), 0.5),  # Muennighoff et al. 2023; its logarithm
    # Learning rates: the logarithms of the two peaks; the power of the batch size that they follow (a half: Malladi et
    # al. 2022); the logarithm of the bits per byte that a change by the factor e costs.
    "muon": (math.log(0.02), 0.5),
    "adamw": (math.log(0.01), 1.0),
    "exponent": (0.5, 0.25),
    "curvature": (math.log(0.05), 1.0),
}
# Trials of the same duration that differ in the vocabulary alone.
VOCABULARIES = [
    Trial("sample", tokens, 128, vocab_size=entries, adamw_lr=0.01)
    for entries, tokens in ((2000, 400_000), (5000, 300_000), (8000, 220_000))
]
LEAST_ADAMW_LR = 0.008  # trials with lower rates learn too little to say anything about other settings
Outcomes = Mapping[Trial, Outcome]


def fitted(outcomes: Outcomes) -> dict[str, dict[str, float]]:
    """Return the fitted numbers of laws.yaml, by law."""
    return {
        "loss": _loss(outcomes),
        "vocabulary": _vocabulary(outcomes),
        "compression": _compression(outcomes),
        "learning_rate": _learning_rates(outcomes),
    }


def _loss(outcomes: Outcomes) -> dict[str, float]:
    """Fit the loss. Of trials that are the same to the law, the best one counts.

    Each text has its own factor, since some text is easier to predict; the sample's is 1.
    """
    best: dict[tuple[Any, ...], tuple[Trial, Outcome]] = {}
    for trial, outcome in outcomes.items():
        if trial.adamw_lr < LEAST_ADAMW_LR:
            continue
        form = (trial.corpus, trial.tokens, outcome.parameters, outcome.train_tokens)
        if form not in best or outcome.val < best[form][1].val:
            best[form] = trial, outcome
    texts = sorted({trial.corpus for trial, _ in best.values()} - {"sample"})

    def table(x: Sequence[float]) -> dict[str, Any]:
        irreducible, weights, weights_exponent, data, data_exponent, repeats = x[:6]
        return {
            **laws().table["loss"],
            "irreducible": float(irreducible),
            "weights_scale": math.exp(weights),
            "weights_exponent": float(weights_exponent),
            "data_scale": math.exp(data),
            "data_exponent": float(data_exponent),
            "repeats": math.exp(repeats),
        }

    def residuals(x: Sequence[float]) -> list[float]:
        laws = Laws({"loss": table(x)})
        found = []
        for trial, outcome in best.values():
            seen = trial.tokens * outcome.train_bytes / outcome.train_tokens
            factor = 1.0 if trial.corpus == "sample" else math.exp(x[6 + texts.index(trial.corpus)])
            expected = factor * laws.bits_per_byte(outcome.parameters, seen, outcome.train_bytes)
            found.append((expected - outcome.val) / NOISE)
        for place, name in enumerate(("irreducible", "", "weights_exponent", "", "data_exponent", "repeats")):
            if name:
                mean, deviation = PRIORS[name]
                found.append((x[place] - mean) / deviation)
        return found

    start = [1.0, math.log(0.3), 0.34, math.log(0.5), 0.28, math.log(15.4), *(0.0 for _ in texts)]
    found = least_squares(residuals, start, loss="soft_l1")
    errors = np.array(residuals(found.x))[: len(best)] * NOISE
    Console().print(f"loss: {len(best)} trials, within {np.sqrt(np.mean(errors**2)):.3f} bits per byte")
    return table(found.x)


def _compression(outcomes: Outcomes) -> dict[str, float]:
    """Fit the bytes per token: a line over the logarithm of the vocabulary's size."""
    points = {(math.log(trial.vocab_size), each.train_bytes / each.train_tokens) for trial, each in outcomes.items()}
    logarithms, bytes_per_token = np.array(sorted(points)).T
    slope, constant = np.polyfit(logarithms, bytes_per_token, 1)
    return {"compression_constant": float(constant), "compression_slope": float(slope)}


def _vocabulary(outcomes: Outcomes) -> dict[str, float]:
    """Fit the vocabulary's scale: the minimum of a parabola through the trials that differ in it alone."""
    alike = {trial: outcome for trial, outcome in outcomes.items() if trial in VOCABULARIES}
    entries, bits = np.array([(trial.vocab_size, outcome.val) for trial, outcome in alike.items()]).T
    curve, slope, _ = np.polyfit(np.log(entries), bits, 2)
    best = math.exp(-slope / (2 * curve))
    trial, outcome = next(iter(alike.items()))
    blocks = outcome.parameters - trial.vocab_size * trial.embedding_dim
    exponent = laws().table["vocabulary"]["exponent"]
    return {"vocabulary_scale": best * trial.embedding_dim / 1e6 / (blocks / 1e6) ** exponent}


def _learning_rates(outcomes: Outcomes) -> dict[str, float]:
    """Fit the peak learning rates: parabolas over their logarithms, both shifted alike by the batch size.

    From trials that differ in the rates and the batch alone.
    """
    groups = defaultdict(list)
    for trial, outcome in outcomes.items():
        groups[replace(trial, lr=0.0, adamw_lr=0.0)].append((trial, outcome.val))
    alike = [group for group in groups.values() if len(group) > 1]
    tokens = laws().table["learning_rate"]["tokens"]
    names = ("muon", "adamw", "exponent", "curvature", "curvature")

    def residuals(x: Sequence[float]) -> list[float]:
        muon, adamw, exponent, *curvatures = x[:5]
        found = [(value - PRIORS[name][0]) / PRIORS[name][1] for name, value in zip(names, x[:5], strict=True)]
        for least, group in zip(x[5:], alike, strict=True):
            for trial, bits in group:
                shift = exponent * math.log(trial.batch_size * trial.max_length / tokens)
                away = math.log(trial.lr) - muon - shift, math.log(trial.adamw_lr) - adamw - shift
                costs = (math.exp(curve) * each**2 for curve, each in zip(curvatures, away, strict=True))
                found.append((least + sum(costs) - bits) / NOISE)
        return found

    start = [*(PRIORS[name][0] for name in names), *(min(bits for _, bits in group) for group in alike)]
    muon, adamw, exponent = least_squares(residuals, start, loss="soft_l1").x[:3]
    return {"muon": math.exp(muon), "adamw": math.exp(adamw), "exponent": float(exponent)}


def main(words: Sequence[str]) -> None:
    """Train the named texts' trials again, fit, and write both tables."""
    outcomes = read(TRIALS)
    named = {name: path for name, _, path in (word.partition("=") for word in words)}
    corpora = {name: FILES.format(path).split() if path else CORPORA[name] for name, path in named.items()}
    again = [trial for trial in outcomes if trial.corpus in corpora]
    for trial, outcome in run_all(again, corpora, "outputs/data", cores()) if again else ():
        outcomes[trial] = outcome
        write(TRIALS, outcomes)
        Console().print(f"{trial}: {outcome.val:.4f} bits per byte")
    text = FILE.read_text(encoding="utf-8")
    for law, numbers in fitted(outcomes).items():
        for name, number in numbers.items():
            text, found = re.subn(rf"(?m)^(  {name}: )\S+(?= # fitted)", rf"\g<1>{number:.4g}", text)
            Console().print(f"{law}.{name}: {number:.4g}{'' if found else ' (as before)'}")
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
