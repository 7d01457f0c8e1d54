"""``hydra/sweeper=optuna``: a search with Optuna (Akiba et al. 2019): bad runs end early, and it goes on after a break.

Hydra takes sweepers from the package ``hydra_plugins`` alone, and imports all that is in it at each start: so what is
heavy, or may not be installed, is imported where it is used.
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

    # By a setting's name: its override's key, which may begin with +, and what it is drawn from.
    Space = dict[str, tuple[str, BaseDistribution]]

log = logging.getLogger(__name__)

COUNT_LOCK = ".count.lock"
SHOWN = 10  # trials in the table at the end
TRIES = 3  # of a trial whose process is ended from outside: a network that needs too much memory is killed each time
# What the launchers raise, joblib's and submitit's, where a job's process was killed.
DIED = {"TerminatedWorkerError", "UncompletedJobError"}


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for each run's settings, launches the run, and tells the study its figure.

    The trial's number is the run's. All of the study is in its storage: the same command with the same
    ``hydra.sweep.dir`` goes on where it was, a run that was interrupted first, from its last checkpoint. Started
    several times at once, on one machine or on several that share the folder, it is as many workers on the same study.
    Each holds a lock that the system lets go of when the process ends, however it ends: whoever gets hold of another
    worker's lock knows that it is dead, and goes on with its trials. While a run trains, `minillm.callbacks.Pruning`
    reports its validations to the study and ends it where the pruner says so. A run that fails is shown, counts as one
    of the trials, and the search goes on; one whose process was ended from outside runs again.

    Args:
        n_trials: runs in all, those of an earlier start and of other workers among them.
        n_jobs: runs settled and launched at a time; under 1: counted down from the number of cores, -1 being all.
        direction: which of two figures is better.
        params: what to search over and what to set, by name, in Hydra's grammar: ``choice(a, b)``, ``range(1, 5)``,
            ``interval(0, 1)``, ``int(interval(1, 8))``, ``tag(log, interval(1e-4, 1e-2))``, or a plain value. The
            command line adds to it and goes before it.
        storage: see `minillm.study.open_storage`.
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
        self.worker = secrets.token_hex(4)
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
        except Exception as error:  # whatever the disk or the database's driver raises
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
        """Launch what was begun and not ended, then new trials, ``n_jobs`` at a time."""
        while True:
            with FileLock(self.folder / COUNT_LOCK):  # workers take trials one after another
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
        """Return this folder's trials that have begun and not ended, and on which nobody works any more.

        A trial of this worker is one whose process has died, since this worker waits for none now. Of another worker it
        is one whose worker has died; what that one gave to a queue, such as Slurm's, may work on nonetheless, and holds
        the lock of the run's folder.
        """
        from optuna.trial import TrialState

        from minillm.run_folder import LOCK

        found = []
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            # Without the attributes it was begun by one that died that moment, since others wait for the lock.
            worker = trial.user_attrs.get("worker", self.worker)
            if trial.user_attrs.get("folder", self.folder_name) != self.folder_name:
                continue
            if not self._is_dead(worker) or not _is_free(FileLock(self.folder / str(trial.number) / LOCK)):
                continue
            tries = trial.user_attrs.get("tries", 1)
            if tries == TRIES:
                log.error("trial %d: failed, its process was ended %d times", trial.number, tries)
                study.tell(trial.number, state=TrialState.FAIL)
                continue
            log.info("trial %d: runs again, its process was ended", trial.number)
            again = self._begin(study, space, trial)
            again.set_user_attr("tries", tries + 1)
            found.append(again)
        return found

    def _is_dead(self, worker: str) -> bool:
        """Return whether a worker does not wait for its trials any more."""
        return worker == self.worker or _is_free(self._lock(worker))

    def _lock(self, worker: str) -> FileLock:
        """Return the lock that a worker holds while it lives."""
        return FileLock(self.folder / f".worker-{worker}.lock")

    def _new(self, study: "Study", space: "Space") -> list["Trial"]:
        """Begin trials, if there are not as many yet as wanted."""
        missing = self.n_trials - len(study.get_trials(deepcopy=False))
        return [self._begin(study, space) for _ in range(min(self.n_jobs, missing))]

    def _begin(self, study: "Study", space: "Space", begun: "FrozenTrial | None" = None) -> "Trial":
        """Begin a trial, or go on with one, with a sampler whose random numbers depend on seed and trial alone."""
        import optuna

        from minillm.errors import SettingError

        seed = self.sampler.get("seed")
        number = len(study.get_trials(deepcopy=False)) if begun is None else begun.number
        study.sampler = self._make("sampler") if seed is None else self._make("sampler", seed=seed + number)
        try:
            trial = study.ask() if begun is None else optuna.Trial(study, begun._trial_id)
            for name, (_, distribution) in space.items():
                trial._suggest(name, distribution)  # as Study.ask does; what is settled already stays
        except ValueError as error:
            advice = f"its study is of another search ({error}); choose another folder"
            raise SettingError("hydra.sweep.dir", self.folder, advice) from error
        return trial

    def _launch(self, study: "Study", trials: Sequence["Trial"], jobs: Sequence[Sequence[str]]) -> None:
        """Launch trials, each with its overrides, and tell the study what came of them."""
        numbers = [trial.number for trial in trials]
        if numbers[-1] - numbers[0] != len(numbers) - 1:  # a launcher takes consecutive ones
            for trial, job in zip(trials, jobs, strict=True):
                self._launch(study, [trial], [job])
            return
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=numbers[0])
        except Exception as error:
            if not DIED & {kind.__name__ for kind in type(error).__mro__}:
                raise
            # The launcher hands on the results of none: those that ended well end at once when they run again.
            log.error("a process of trials %s was ended: %s", numbers, str(error).partition("\n")[0])
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
        """Show the best trials, and how many came to which end."""
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
            raise MiniLLMError(f"{self.folder}: no trial came to its end ({counts})")
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
    """Return whether nobody holds a lock; leave no file behind that was not there."""
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
