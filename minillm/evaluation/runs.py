"""Training runs: finding them, and reading what is known about each."""

import contextlib
import csv
import glob
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minillm.errors import OutsideError, SettingError
from minillm.evaluation.results import EVALUATION, figures, intervals_of, logged_figures, read_evaluation, verdict_of
from minillm.evaluation.schema import Verdict

log = logging.getLogger(__name__)

# A folder that contains one of these is a run's folder.
RUN_MARKERS = (".hydra", "checkpoints", "evaluation")
# The file that a search writes into a pruned run's folder.
PRUNED = "pruned.txt"
# Whether an evaluated run is trustworthy, by verdict.
TRUSTWORTHY: dict[Verdict, str] = {"fine": "yes", "weak": "yes (weak)", "fault": "NO"}
DAMAGED = "damaged"


@dataclass(frozen=True)
class Run:
    """A run's folder, and what is known about it.

    Args:
        folder: the folder.
        trustworthy: ``yes``, ``yes (weak)`` or ``NO``; for a run that was not audited, why not.
        figures: by name, as in `minillm.evaluation.results`: evaluated ones, otherwise those that training logged.
        overrides: the settings on its command line, such as ``model.dropout``, with their values.
        config: its whole configuration.
        choices: its choice in each config group.
        intervals: the 95 % intervals of figures, (low, high).
        articles_sha256: SHA-256 of its sums per article, by split; see `minillm.evaluation.article_sums`.
        others: further runs of the same row; the figures are then means.
        spread: the sample standard deviation of each figure over these runs.
    """

    folder: Path
    trustworthy: str
    figures: Mapping[str, float]
    overrides: Mapping[str, str]
    config: DictConfig
    choices: Mapping[str, str]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    articles_sha256: Mapping[str, str] = field(default_factory=dict)
    others: Sequence["Run"] = ()
    spread: Mapping[str, float] = field(default_factory=dict)

    @property
    def members(self) -> "list[Run]":
        """The runs of this row, itself first."""
        return [self, *self.others]

    @property
    def failed(self) -> bool:
        """Whether it has no figure, and no damaged evaluation."""
        return not self.figures and self.trustworthy != DAMAGED

    def setting(self, name: str) -> str:
        """Return a setting's value, on the command line or not; for a config group its choice."""
        with contextlib.suppress(OmegaConfBaseException):  # an interpolation that only the run itself could resolve
            value = OmegaConf.select(self.config, name, default="")
            if value != "" and not OmegaConf.is_dict(value):
                return _as_override(value)
        # A choice of several files is only on the command line.
        return _as_override(self.choices.get(name, self.overrides.get(name, "")))


def _as_override(value: Any) -> str:
    """Return a setting's value as on a command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def find_runs(places: Sequence[str]) -> list[Path]:
    """Return the folders of the runs in some places, each once.

    Args:
        places: as for `compare`.

    Raises:
        SettingError: there is no run.
    """
    # Path.glob takes no absolute patterns.
    matches = [Path(match) for place in places for match in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207
    runs = {run.resolve(): run for match in matches for run in _runs_in(match)}
    if not runs:
        raise SettingError(
            "runs", f"[{', '.join(places)}]", "no run there; give folders under outputs/train or outputs/multirun"
        )
    return list(runs.values())


def _runs_in(folder: Path) -> Iterator[Path]:
    if any((folder / name).is_dir() for name in RUN_MARKERS):
        yield folder
    elif folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from _runs_in(child)


def read_run(folder: Path) -> Run:
    """Return what is known about a run; log its damaged files."""
    evaluation: Mapping[str, Any] = {}
    intervals, trustworthy = {}, "not evaluated"
    try:
        found = read_evaluation(folder)
        if found is not None:
            intervals, trustworthy = intervals_of(found), TRUSTWORTHY[verdict_of(found)]
            evaluation = cast(Mapping[str, Any], found)
        elif (folder / PRUNED).is_file():
            trustworthy = "pruned"
    except OutsideError as error:
        log.warning("%s", error)
        trustworthy = DAMAGED
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # JSON of another structure
        _damaged(folder / EVALUATION, error)
        trustworthy = DAMAGED
    return Run(
        folder,
        trustworthy,
        {**_logged_figures(folder), **figures(evaluation)},
        _overrides(folder / ".hydra" / "overrides.yaml"),
        _read(folder / ".hydra" / "config.yaml"),
        _choices(folder / ".hydra" / "hydra.yaml"),
        intervals,
        evaluation.get("articles_sha256", {}),
    )


def _logged_figures(folder: Path) -> dict[str, float]:
    try:
        return logged_figures(folder)
    except (OSError, ValueError, TypeError, LookupError, csv.Error) as error:
        _damaged(folder / "metrics.csv", error)
        return {}


def _overrides(path: Path) -> dict[str, str]:
    try:
        lines: Any = OmegaConf.to_object(_read(path))
        overrides = [OverridesParser.create().parse_override(str(line)) for line in lines]
        return {override.key_or_group: override.get_value_element_as_str() for override in overrides}
    except (HydraException, TypeError) as error:
        return _damaged(path, error)


def _choices(path: Path) -> dict[str, str]:
    try:
        return dict(OmegaConf.select(_read(path), "hydra.runtime.choices") or {})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        return _damaged(path, error)


def _read(path: Path) -> Any:
    """Return a YAML file of Hydra's; an empty config if it is missing or damaged."""
    if path.is_file():
        try:
            return OmegaConf.load(path)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            _damaged(path, error)
    return OmegaConf.create()


def _damaged(path: Path, error: Exception) -> dict[str, Any]:
    """Log that a file cannot be used, and return an empty dict instead."""
    log.warning("%s: damaged (%s)", path, " ".join(str(error).split()))
    return {}
