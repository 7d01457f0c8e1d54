"""Reading a run's evaluation: from its file, and as figures by name."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_type_hints, is_typeddict

from minillm.errors import OutsideError
from minillm.evaluation.schema import SCHEMA, DataSize, Evaluation, Finding, SplitFigures, SplitName, Verdict

EVALUATION = Path("evaluation", "evaluation.json")
# The parts of an evaluation with results, not settings, examples or curves.
MEASURED = ("overfitting", "bias", "text", "latency", "memory")
SEAL = "sha256"
UNK_RATE = "unk_rate"  # the share of [UNK] among a split's targets


def sealed(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation with a SHA-256 of its content, for its file.

    Raises:
        ValueError: a figure is not finite.
    """
    # JSON has no NaN: better no file than one that other programs refuse.
    content = json.loads(json.dumps(evaluation, allow_nan=False))
    return {**content, SEAL: _seal(content)}


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_evaluation(run: Path) -> Evaluation | None:
    """Return the evaluation in a run's folder; None: there is none.

    Args:
        run: the run's folder.

    Raises:
        OutsideError: the file is damaged or of another schema.
    """
    path = run / EVALUATION
    if not path.is_file():
        return None
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutsideError(f"{path}: damaged ({error}); evaluate the run again") from error
    if not isinstance(evaluation, dict) or evaluation.get("schema") != SCHEMA or "splits" not in evaluation:
        raise OutsideError(f"{path}: not an evaluation of schema {SCHEMA}; evaluate the run again")
    # A file without a SHA-256, of an older version or another program, is accepted.
    if (seal := evaluation.pop(SEAL, None)) is not None and seal != _seal(evaluation):
        raise OutsideError(f"{path}: damaged, or changed by hand; evaluate the run again")
    return _with_verdicts(evaluation)


def _with_verdicts(evaluation: dict[str, Any]) -> Evaluation:
    """Return an evaluation with verdicts; older versions had ``passed`` for each check."""
    audit = evaluation.get("audit", {})
    if any("passed" in found for found in audit.values()):
        for name, found in audit.items():
            passed = found.pop("passed")
            found["verdict"] = "none" if passed is None else "fine" if passed else "fault"
            # Older versions failed a model that was worse than the bigram model but not impossibly good.
            if name == "plausibility" and passed is False and found["perplexity"] >= found["threshold"]:
                found["verdict"] = "weak"
        evaluation["trustworthy"] = all(found["verdict"] != "fault" for found in audit.values())
    return cast(Evaluation, evaluation)


def verdict_of(evaluation: Evaluation) -> Verdict:
    """Return an evaluation's verdict, the worst of its checks: ``fault``, ``weak`` or ``fine``."""
    if not evaluation["trustworthy"]:
        return "fault"
    checks = cast(Mapping[str, Finding], evaluation["audit"]).values()
    return "weak" if any(check["verdict"] == "weak" for check in checks) else "fine"


def logged_figures(run: Path) -> dict[str, float]:
    """Return the figures in ``metrics.csv``: of the validation with the lowest loss, and of the test.

    Args:
        run: the run's folder.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, restkey="", restval=""))
    chosen: dict[str, float] = {}
    for split, order in ("val", lambda row: -float(row["val/loss"])), ("test", lambda row: int(row["step"])):
        if splits := [row for row in rows if row.get(f"{split}/loss")]:
            best = max(splits, key=order)
            chosen |= {name: float(value) for name, value in best.items() if name.startswith(f"{split}/") and value}
    return chosen


def test_figures(evaluation: Evaluation) -> dict[str, float]:
    """Return the test figures under the names that training logs."""
    split, bias = evaluation["splits"]["test"], evaluation["bias"]
    figures = {
        "loss": split["loss"],
        "perplexity": split["perplexity"],
        "accuracy": split["accuracy"],
        "bits_per_byte": split["bits_per_byte"],
        "prediction_bias": bias["prediction_bias"],
        "absolute_bias": bias["absolute_bias"],
        "bias_variance": bias["bias_variance"],
        "bleu": evaluation["text"]["bleu4"],
    }
    return {f"test/{name}": value for name, value in figures.items() if value is not None}


def sample_sentences(data: DataSize) -> list[str]:
    """Return a sentence for each split whose figures are over a sample, with the sample's size."""
    return [
        f"The {name} figures are over a sample: {sample['articles']:,} of {data['articles'][name]:,} articles, "
        f"{sample['tokens']:,} of {data['tokens'][name]:,} tokens."
        for name, sample in data["samples"].items()
    ]


def intervals_of(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of the splits' figures by the names of `figures`; older files have none."""
    return {
        f"{split}/{name}": (low, high)
        for split, figures in evaluation["splits"].items()
        for name, (low, high) in figures.get("ci95", {}).items()
    }


def figure_names() -> set[str]:
    """Return all names that `figures` can return."""

    def names(kind: Any, name: str) -> Iterator[str]:
        for part in get_args(kind) if isinstance(kind, UnionType) else (kind,):
            if is_typeddict(part):
                for key, child in get_type_hints(part).items():
                    yield from names(child, f"{name}/{key}")
            elif part in (int, float):
                yield name

    hints = get_type_hints(Evaluation)
    parts = {**{part: hints[part] for part in MEASURED}, **dict.fromkeys(get_args(SplitName), SplitFigures)}
    shares = {f"{split}/{UNK_RATE}" for split in get_args(SplitName)}
    return shares | {name for part, kind in parts.items() for name in names(kind, part)}


def figures(evaluation: Mapping[str, object]) -> dict[str, float]:
    """Return the figures by name, those of the splits by their logged names.

    >>> figures({"splits": {"val": {"loss": 4.2}}, "latency": {"token_ms": {"mean": 1.5}}})
    {'val/loss': 4.2, 'latency/token_ms/mean': 1.5}
    >>> figures({"data": {"unk_rate": {"test": 0.15}}})
    {'test/unk_rate': 0.15}
    """
    flat: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, child in value.items():
                add(f"{name}/{key}" if name else str(key), child)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = value

    add("", evaluation.get("splits"))
    for part in MEASURED:
        add(part, evaluation.get(part))
    data = evaluation.get("data")
    shares = data.get(UNK_RATE) if isinstance(data, Mapping) else None
    for split, share in shares.items() if isinstance(shares, Mapping) else ():
        add(f"{split}/{UNK_RATE}", share)
    return flat
