"""``hydra/sweeper=optuna``: a search with Optuna (Akiba et al. 2019) that prunes bad runs and can be resumed.

Hydra finds sweepers only in the package ``hydra_plugins``, and imports all its modules at each start. So modules that
are slow to import, or optional, are imported where they are used.
"""

import logging
import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from filelock import FileLock, Timeout
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

    # By setting: the key of its override, which may start with +, and its distribution.
    Space = dict[str, tuple[str, BaseDistribution]]

log = logging.getLogger(__name__)

COUNT_LOCK = ".count.lock"
SHOWN = 10  # trials in the table at the end
MAX_TRIES = 3  # of a trial whose process is killed: a network that needs too much memory is killed each time
# Errors of the launchers (joblib, submitit) if a job's process was killed.
KILLED_ERRORS = {"TerminatedWorkerError", "UncompletedJobError"}


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for each run's settings, launches the run, and reports its result to the study.

    A run has its trial's number. The storage has the whole study, so the same command with the same ``hydra.sweep.dir``
    resumes the search: first interrupted runs, from their last checkpoints. Started several times, on one machine or on
    several that share the folder, it has several workers on the same study. Each worker holds a lock, which the system
    releases when its process ends; a worker that can take another's lock knows that the other is dead, and continues
    its trials. `minillm.callbacks.Pruning` reports a run's validations to the study and stops the run if the pruner
    says so. A failed run counts as a trial, and the search continues; a run whose process was killed runs again.

    Args:
        n_trials: total number of runs, including those of earlier starts and other workers.
        n_jobs: runs launched together; under 1: relative to the number of cores, where -1 is all.
        direction: whether lower or higher is better.
        params: the search space and fixed settings, by name, in Hydra's grammar: ``choice(a, b)``, ``range(1, 5)``,
            ``interval(0, 1)``, ``int(interval(1, 8))``, ``tag(log, interval(1e-4, 1e-2))``, or a plain value. Settings
            on the command line are added, and take precedence.
        storage: see `minillm.study.open_storage`.
        study_name: the study's name.
        sampler: ``_target_`` and arguments of an Optuna sampler. Its ``seed``, if it has one, is for the first trial;
            later trials derive theirs from it, so that an interruption changes nothing.
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
        # Checked in `setup`, since Hydra wraps errors that are raised here.
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.params, self.storage, self.study_name = params, storage, study_name
        self.sampler, self.pruner = sampler, pruner
        self.worker = secrets.token_hex(4)
        self.launcher: Launcher
        self.context: HydraContext
        self.config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings and create the launcher, before the first run.

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
        """Identifies this folder's trials in a storage that other folders share."""
        return str(self.folder.resolve())

    @property
    def figure(self) -> str:
        """The name of the optimized metric."""
        return str(OmegaConf.select(self.config, "optimized_metric"))

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until there are ``n_trials``; return the study.

        Args:
            arguments: the command line's overrides.

        Raises:
            SettingError: a search space or a storage that cannot work.
            MiniLLMError: no trial was completed.
        """
        from minillm.files import written_whole
        from minillm.signals import signals

        fixed, space = self._search_space(arguments)
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.folder / "multirun.yaml") as file:
            OmegaConf.save(self.config, file)
        study = self._study()
        lock = self._lock(self.worker)
        lock.acquire()
        try:
            self._run(study, fixed, space)
        except SystemExit:
            signals.how = lambda: f"the same command with hydra.sweep.dir={self.folder} goes on from here"
            raise
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        self._show(study)
        return study

    def _search_space(self, arguments: Sequence[str]) -> tuple[list[str], "Space"]:
        """Return the overrides of all runs, and the search space."""
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
            advice = "has nothing to search over; give a range, such as optimizer.lr='tag(log,interval(1e-4,1e-2))'"
            raise SettingError("hydra.sweeper.params", dict(self.params), advice)
        return fixed, space

    def _study(self) -> "Study":
        """Open the study, or create it."""
        import optuna

        from minillm.errors import SettingError
        from minillm.study import open_storage

        try:
            study = optuna.create_study(
                storage=open_storage(self.storage),
                study_name=self.study_name,
                direction=self.direction,
                pruner=self._make("pruner"),
                load_if_exists=True,
            )
        except SettingError:
            raise
        except Exception as error:  # any error of the disk or the database's driver
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
        """Launch unfinished trials, then new ones, ``n_jobs`` at a time."""
        while True:
            with FileLock(self.folder / COUNT_LOCK):  # one worker takes trials at a time
                trials = self._abandoned(study, space)[: self.n_jobs] or self._new(study, space)
                for trial in trials:
                    trial.set_user_attr("folder", self.folder_name)
                    trial.set_user_attr("worker", self.worker)
            if not trials:
                return
            self._launch(study, trials, [[*fixed, *self._overrides(trial, space)] for trial in trials])

    def _overrides(self, trial: "Trial", space: "Space") -> list[str]:
        """Return the settings of a trial, and its last checkpoint if it has one."""
        settings = [f"{space[name][0]}={value}" for name, value in trial.params.items()]
        checkpoint = self.folder / str(trial.number) / "checkpoints" / "last.ckpt"
        return [*settings, f"ckpt_path='{checkpoint}'"] if checkpoint.is_file() else settings

    def _abandoned(self, study: "Study", space: "Space") -> list["Trial"]:
        """Return this folder's unfinished trials that no process works on.

        This worker's own unfinished trials qualify, since it is not waiting for any now: their processes have died. So
        do those of dead workers, unless their run, perhaps submitted to Slurm, still holds the lock of its folder.
        """
        from optuna.trial import TrialState

        from minillm.run_folder import LOCK

        found = []
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            # A trial without attributes is of a worker that died right after creating it, since the lock is free.
            worker = trial.user_attrs.get("worker", self.worker)
            if trial.user_attrs.get("folder", self.folder_name) != self.folder_name:
                continue
            if not self._is_dead(worker) or not _is_free(FileLock(self.folder / str(trial.number) / LOCK)):
                continue
            tries = trial.user_attrs.get("tries", 1)
            if tries == MAX_TRIES:
                log.error("trial %d: failed, its process was killed %d times", trial.number, tries)
                study.tell(trial.number, state=TrialState.FAIL)
                continue
            log.info("trial %d: runs again, its process was killed", trial.number)
            again = self._begin(study, space, trial)
            again.set_user_attr("tries", tries + 1)
            found.append(again)
        return found

    def _is_dead(self, worker: str) -> bool:
        """Return whether a worker is dead, or this one, which is not waiting for trials now."""
        return worker == self.worker or _is_free(self._lock(worker))

    def _lock(self, worker: str) -> FileLock:
        """Return the lock that a worker holds while it lives."""
        return FileLock(self.folder / f".worker-{worker}.lock")

    def _new(self, study: "Study", space: "Space") -> list["Trial"]:
        """Begin up to ``n_jobs`` of the trials that are missing from ``n_trials``."""
        missing = self.n_trials - len(study.get_trials(deepcopy=False))
        return [self._begin(study, space) for _ in range(min(self.n_jobs, missing))]

    def _begin(self, study: "Study", space: "Space", begun: "FrozenTrial | None" = None) -> "Trial":
        """Begin or resume a trial, with a sampler whose random numbers depend only on the seed and the trial."""
        import optuna

        from minillm.errors import SettingError

        seed = self.sampler.get("seed")
        number = len(study.get_trials(deepcopy=False)) if begun is None else begun.number
        study.sampler = self._make("sampler") if seed is None else self._make("sampler", seed=seed + number)
        try:
            trial = study.ask() if begun is None else optuna.Trial(study, begun._trial_id)
            for name, (_, distribution) in space.items():
                trial._suggest(name, distribution)  # as Study.ask does; existing values stay
        except ValueError as error:
            advice = f"it has the study of another search ({error}); choose another folder"
            raise SettingError("hydra.sweep.dir", self.folder, advice) from error
        return trial

    def _launch(self, study: "Study", trials: Sequence["Trial"], jobs: Sequence[Sequence[str]]) -> None:
        """Launch trials, each with its overrides, and report their results to the study."""
        numbers = [trial.number for trial in trials]
        if numbers[-1] - numbers[0] != len(numbers) - 1:  # a launcher needs consecutive numbers
            for trial, job in zip(trials, jobs, strict=True):
                self._launch(study, [trial], [job])
            return
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=numbers[0])
        except Exception as error:
            if not KILLED_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
                raise
            # The launcher returns no results. Runs that were complete end at once when they run again.
            log.error("a process of trials %s was killed: %s", numbers, str(error).partition("\n")[0])
            return
        for number, returned in zip(numbers, returns, strict=True):
            self._tell(study, number, returned)

    def _tell(self, study: "Study", number: int, job: JobReturn) -> None:
        from optuna.trial import TrialState

        from minillm.errors import MiniLLMError

        state = study.get_trials(deepcopy=False)[number].state
        if state.is_finished():
            log.info("trial %d: %s", number, "pruned" if state is TrialState.PRUNED else "ended")
            return
        try:
            value = job.return_value
        except Exception as error:  # Hydra names the run's overrides; the run has reported a MiniLLMError
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
        """Show the best trials, and the numbers of complete, pruned and failed ones."""
        from optuna.trial import TrialState
        from rich.console import Console
        from rich.table import Table

        from minillm.errors import MiniLLMError

        trials = study.get_trials(deepcopy=False)
        states = Counter(trial.state for trial in trials)
        words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        counts = ", ".join(f"{states[state]} {word}" for state, word in words.items())
        if states[TrialState.RUNNING]:
            log.info("%d trials run in other workers; the last of them shows the result", states[TrialState.RUNNING])
            return
        if not states[TrialState.COMPLETE]:
            raise MiniLLMError(f"{self.folder}: no trial was completed ({counts})")
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        ranked = sorted(complete, key=lambda trial: cast(float, trial.value), reverse=self.direction == "maximize")
        names = sorted({name for trial in complete for name in trial.params})
        title = f"{len(trials)} trials: {counts}"
        table = Table("trial", self.figure, *names, title=title, title_justify="left")
        for trial in ranked[:SHOWN]:
            settings = (trial.params.get(name, "") for name in names)
            shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in settings)
            table.add_row(str(trial.number), f"{trial.value:.4f}", *shown)
        Console().print(table)
        best = study.best_trial
        settings_of_best = " ".join(f"{name}={value}" for name, value in best.params.items())
        log.info("best: trial %d, %.4f, with %s", best.number, best.value, settings_of_best)
        log.info("python scripts/compare.py 'runs=[%s]' sort_by=%s", self.folder, self.figure)


def _is_free(lock: FileLock) -> bool:
    """Return whether no process holds a lock; create no lock file."""
    path = Path(lock.lock_file)
    if not path.is_file():
        return True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _distribution(override: Override) -> "BaseDistribution":
    """Return the distribution of a sweep in Hydra's grammar; a range excludes its end, as in Hydra."""
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
        # Sorted: the order has no meaning, and a resumed study must have the same one.
        return distributions.CategoricalDistribution(sorted(set(override.sweep_string_iterator())))
    except ValueError as error:
        raise SettingError(override.key_or_group, override.get_value_string(), str(error)) from error
