"""``hydra/sweeper=optuna``: a search with Optuna (Akiba et al. 2019): bad runs end early, and it goes on after a break.

Hydra takes sweepers from the package ``hydra_plugins`` alone, and imports all that is in it at each start: so what is
heavy, or may not be installed, is imported where it is used.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    # By a setting's name: its override's key, which may begin with +, and what it is drawn from.
    Space = dict[str, tuple[str, BaseDistribution]]

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for each run's settings, launches the run, and tells the study its figure.

    The trial's number is the run's. All of the study is in its storage: the same command with the same
    ``hydra.sweep.dir`` goes on where it was, a run that was interrupted first, from its last checkpoint. While a run
    trains, `minillm.callbacks.Pruning` reports its validations to the study and ends it where the pruner says so. A run
    that fails is shown, counts as one of the trials, and the search goes on.

    Args:
        n_trials: runs in all, those of an earlier start among them.
        n_jobs: runs settled and launched at a time; under 1: counted down from the number of cores, -1 being all.
        direction: which of two figures is better.
        params: what to search over and what to set, by name, in Hydra's grammar: ``choice(a, b)``, ``range(1, 5)``,
            ``interval(0, 1)``, ``int(interval(1, 8))``, ``tag(log, interval(1e-4, 1e-2))``, or a plain value. The
            command line adds to it and goes before it.
        storage: the database's address, as SQLAlchemy has it.
        study_name: the study's name there.
        sampler: ``_target_`` and arguments of an Optuna sampler; its ``seed``, if it has one, is that of the first
            trial, and each later one's follows from it, so that an interruption changes nothing.
        pruner: ``_target_`` and arguments of an Optuna pruner.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        direction: Literal["minimize", "maximize"],
        params: Mapping[str, Any],
        storage: str,
        study_name: str,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
    ) -> None:
        # Checked in `setup`: what is raised here reaches a user wrapped in Hydra's own words.
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.params, self.storage, self.study_name = params, storage, study_name
        self.sampler, self.pruner = sampler, pruner
        self.launcher: Launcher
        self.context: HydraContext
        self.config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings and make the launcher, before the first run.

        Raises:
            SettingError: a setting that cannot work, or Optuna is not installed.
        """
        from minillm.configuration import check_types, plain
        from minillm.errors import SettingError

        try:
            import optuna
        except ImportError as error:
            raise SettingError("hydra/sweeper", "optuna", "is not installed; pip install -e '.[sweep]'") from error
        check_types(OmegaConf.create({"hydra": {"sweeper": plain(config.hydra.sweeper)}}), {})
        if self.n_trials < 1:
            raise SettingError("hydra.sweeper.n_trials", self.n_trials, "must be at least 1, such as 20")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if self.n_jobs < 1:
            from joblib import effective_n_jobs

            self.n_jobs = effective_n_jobs(self.n_jobs or -1)

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.config.hydra.sweep.dir)

    @property
    def folder_name(self) -> str:
        """What tells the trials of this folder from those of others that share the storage."""
        return str(self.folder.resolve())

    @property
    def figure(self) -> str:
        """The name of what is optimized."""
        return str(OmegaConf.select(self.config, "optimized_metric"))

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until there are as many as wanted; return the study.

        Args:
            arguments: the command line's overrides.

        Raises:
            SettingError: a search space or a storage that cannot work.
            MiniLLMError: no trial came to its end.
        """
        from minillm.signals import signals

        fixed, space = self._search_space(arguments)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        study = self._study()
        try:
            self._run(study, fixed, space)
        except SystemExit:
            signals.how = lambda: f"the same command with hydra.sweep.dir={self.folder} goes on from here"
            raise
        self._show(study)
        return study

    def _search_space(self, arguments: Sequence[str]) -> tuple[list[str], "Space"]:
        """Return the overrides that all runs share, and each searched setting's override and distribution by name."""
        from minillm.errors import SettingError

        parser = OverridesParser.create(config_loader=self.context.config_loader)
        lines = [*(f"{name}={value}" for name, value in self.params.items()), *arguments]
        overrides = {
            override.key_or_group: override for override in parser.parse_overrides(lines)
        }  # the last one counts
        fixed = [cast(str, override.input_line) for override in overrides.values() if not override.is_sweep_override()]
        space = {
            name: (override.get_key_element(), _distribution(override))
            for name, override in overrides.items()
            if override.is_sweep_override()
        }
        if not space:
            advice = "is nothing to search over; give a range, such as optimizer.lr='tag(log,interval(1e-4,1e-2))'"
            raise SettingError("hydra.sweeper.params", dict(self.params), advice)
        return fixed, space

    def _study(self) -> "Study":
        """Open the study, or make it."""
        import optuna

        from minillm.errors import SettingError

        try:
            study = optuna.create_study(
                storage=self.storage,
                study_name=self.study_name,
                direction=self.direction,
                pruner=self._make("pruner"),
                load_if_exists=True,
            )
        except SettingError:
            raise
        except Exception as error:  # whatever the database's driver raises
            raise SettingError("hydra.sweeper.storage", self.storage, f"cannot be used: {error}") from error
        if study.direction.name.lower() != self.direction:
            advice = f"the study in {self.storage} has another; choose another hydra.sweep.dir"
            raise SettingError("hydra.sweeper.direction", self.direction, advice)
        return study

    def _make(self, name: str, **arguments: Any) -> Any:
        """Return the sampler or the pruner."""
        from minillm.configuration import instantiate
        from minillm.errors import SettingError

        try:
            return instantiate(OmegaConf.create({name: getattr(self, name)}), name, **arguments)
        except SettingError as error:
            raise error.within("hydra.sweeper") from error

    def _run(self, study: "Study", fixed: list[str], space: "Space") -> None:
        """Launch what was interrupted, one at a time, then new trials, ``n_jobs`` at a time."""
        from optuna.trial import TrialState

        def overrides(trial: "Trial | FrozenTrial") -> list[str]:
            keys = {name: key for name, (key, _) in space.items()}
            return [*fixed, *(f"{keys.get(name, name)}={value}" for name, value in trial.params.items())]

        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("folder") == self.folder_name:
                checkpoint = self.folder / str(trial.number) / "checkpoints" / "last.ckpt"
                resume = [f"ckpt_path='{checkpoint}'"] if checkpoint.is_file() else []
                self._launch(study, [trial.number], [[*overrides(trial), *resume]])
        while (missing := self.n_trials - len(study.get_trials(deepcopy=False))) > 0:
            trials = [self._ask(study, space) for _ in range(min(self.n_jobs, missing))]
            self._launch(study, [trial.number for trial in trials], [overrides(trial) for trial in trials])

    def _ask(self, study: "Study", space: "Space") -> "Trial":
        """Begin a trial, with a sampler whose random numbers depend on the seed and the trial alone."""
        from minillm.errors import SettingError

        seed = self.sampler.get("seed")
        number = len(study.get_trials(deepcopy=False))
        study.sampler = self._make("sampler") if seed is None else self._make("sampler", seed=seed + number)
        try:
            trial = study.ask({name: distribution for name, (_, distribution) in space.items()})
        except ValueError as error:
            advice = f"its study is of another search ({error}); choose another folder"
            raise SettingError("hydra.sweep.dir", self.folder, advice) from error
        trial.set_user_attr("folder", self.folder_name)
        return trial

    def _launch(self, study: "Study", numbers: Sequence[int], jobs: Sequence[Sequence[str]]) -> None:
        """Launch trials, each with its overrides, and tell the study what came of them."""
        if numbers[-1] - numbers[0] != len(numbers) - 1:  # others, who share the storage, took the numbers between
            for number, job in zip(numbers, jobs, strict=True):
                self._launch(study, [number], [job])
            return
        returns = self.launcher.launch(jobs, initial_job_idx=numbers[0])
        for number, returned in zip(numbers, returns, strict=True):
            self._tell(study, number, returned)

    def _tell(self, study: "Study", number: int, job: JobReturn) -> None:
        from optuna.trial import TrialState

        from minillm.errors import MiniLLMError

        if study.get_trials(deepcopy=False)[number].state is TrialState.PRUNED:
            log.info("trial %d: pruned", number)
            return
        try:
            value = job.return_value
        except Exception as error:  # Hydra names the run's overrides; a user's error was shown by the run
            log.error("trial %d: failed", number, exc_info=None if isinstance(error, MiniLLMError) else error)
            study.tell(number, state=TrialState.FAIL)
            return
        if value is None or math.isnan(value):
            log.error("trial %d: failed, %s is %s", number, self.figure, value)
            study.tell(number, state=TrialState.FAIL)
            return
        study.tell(number, value)
        log.info("trial %d: %s %.4f (best %.4f)", number, self.figure, value, study.best_value)

    def _show(self, study: "Study") -> None:
        from optuna.trial import TrialState

        from minillm.errors import MiniLLMError

        trials = study.get_trials(deepcopy=False)
        states = Counter(trial.state for trial in trials)
        counts = ", ".join(
            f"{states[state]} {word}"
            for state, word in (
                (TrialState.COMPLETE, "complete"),
                (TrialState.PRUNED, "pruned"),
                (TrialState.FAIL, "failed"),
            )
        )
        if not states[TrialState.COMPLETE]:
            raise MiniLLMError(f"{self.folder}: no trial came to its end ({counts})")
        best = study.best_trial
        settings = " ".join(f"{name}={value}" for name, value in best.params.items())
        log.info("%d trials: %s", len(trials), counts)
        log.info("best: trial %d, %.4f, with %s", best.number, best.value, settings)
        log.info("python scripts/compare.py 'runs=[%s]' sort_by=%s", self.folder, self.figure)


def _distribution(override: Override) -> "BaseDistribution":
    """Return the distribution that a sweep in Hydra's grammar means; like Hydra's, a range leaves out its end."""
    from optuna import distributions

    from minillm.errors import SettingError

    value = override.value()
    log_scale = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            if isinstance(value.start, int) and isinstance(value.end, int):
                return distributions.IntDistribution(value.start, value.end, log=log_scale)
            return distributions.FloatDistribution(cast(float, value.start), cast(float, value.end), log=log_scale)
        if isinstance(value, RangeSweep):
            numbers = sorted(value.range())
            if not numbers:
                raise ValueError("is empty")
            step = abs(value.step)
            if all(isinstance(number, int) for number in numbers):
                return distributions.IntDistribution(numbers[0], numbers[-1], log=log_scale, step=cast(int, step))
            return distributions.FloatDistribution(numbers[0], numbers[-1], log=log_scale, step=step)
        # Sorted: the order has no meaning, and a study takes up no other one.
        return distributions.CategoricalDistribution(sorted(set(override.sweep_string_iterator())))
    except ValueError as error:
        raise SettingError(override.key_or_group, override.get_value_string(), str(error)) from error
