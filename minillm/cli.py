"""The scripts' common entry point: Hydra, with one-line errors, signals and help."""

import errno
import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from minillm import run_folder
from minillm.command import CONF
from minillm.configuration import check_types
from minillm.errors import MiniLLMError, SettingError
from minillm.help_page import help_page
from minillm.launch import dismiss, is_further_process, launched
from minillm.mistyped import check_form, choice_error, setting_error
from minillm.signals import Interrupted, signals

PIPE_CLOSED = 141  # a shell's status of a program that SIGPIPE ended
MAX_WIDTH = 120  # of the help page: longer lines are hard to read
PLUGINS = {f"hydra/launcher/{name}" for name in ("joblib", "submitit_local", "submitit_slurm")}
FULL_ERROR, TRACEBACKS = "HYDRA_FULL_ERROR", "MINILLM_TRACEBACKS"


def script(
    config_name: str,
    settings: Mapping[str, Any],
    texts: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
    arguments: Callable[[Sequence[str]], list[str]] = list,
    completed: Callable[[DictConfig], DictConfig] = lambda config: config,
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Turn a function of the composed config into a command.

    A user's mistake gives one line on the terminal and exit status 2, an external failure one line and status 1; with
    HYDRA_FULL_ERROR=1 both show a traceback. Ctrl-C gives one line and status 130, SIGTERM one line and status 143. A
    run that is refused, or stopped before it has done anything, leaves no folder.

    Args:
        config_name: the root config in conf/.
        settings: types of the settings in the root config itself.
        texts: settings that take any text, such as a prompt, without Hydra's quoting on the command line.
        groups: config groups that must have a choice.
        arguments: maps the user's command line to Hydra's.
        completed: maps the composed config to the function's.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @functools.wraps(task)  # Hydra names the log file after the function's script
        def checked(config: DictConfig) -> Any:
            try:
                _check_groups(config, groups)
                config = completed(config)
                check_types(config, settings, declared(config_name))
                return task(config)
            except Exception as error:
                # Report before Hydra wraps the exception. In a sweep the other runs continue, and Hydra raises the
                # first error at the end.
                _report(error, leave=HydraConfig.get().mode is not RunMode.MULTIRUN)
                raise

        def command() -> Any:
            # With FULL_ERROR=1 Hydra raises errors instead of printing them; TRACEBACKS keeps the user's choice.
            os.environ.setdefault(TRACEBACKS, os.environ.get(FULL_ERROR, "0"))
            os.environ[FULL_ERROR] = "1"
            signals.answer()
            discard, stopped, failed = False, False, True
            try:
                if {"--help", "-h"} & {*sys.argv[1:]}:
                    print(help_page(config_name, CONF, min(shutil.get_terminal_size().columns, MAX_WIDTH)))
                    return None
                if "trainer" not in groups:
                    _check_alone()
                _check_null(sys.argv[1:])
                check_form(sys.argv[1:], config_name, CONF)
                sys.argv[1:] = [_quoted(argument, texts) for argument in arguments(sys.argv[1:])]
                result = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked)()
                failed = False
                return result
            except BrokenPipeError:  # the reader, such as head, has closed the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(PIPE_CLOSED)
            except run_folder.RefusedError as refused:
                _report(refused.error)
                raise refused.error from None
            except Exception as error:
                _report(_explained(error, sys.argv[1:], config_name))
                raise
            except SystemExit as end:
                stopped = isinstance(end, Interrupted)
                discard = end.code == 2 or stopped
                failed = end.code not in (None, 0)
                raise
            finally:
                run_folder.release(discard)
                if failed:
                    dismiss()
                if stopped:
                    signals.say()
                signals.restore()

        return command

    return decorate


def declared(config_name: str) -> set[str]:
    """Return the settings and config groups that a script's root config declares."""
    root = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = (group for choice in root.pop("defaults") if isinstance(choice, dict) for group in choice)
    return {*root, *groups}


def _check_groups(config: DictConfig, groups: tuple[str, ...]) -> None:
    """Check that each group has a choice that is not empty, as after ``~data`` or ``evaluation=none``."""
    for group in groups:
        if not config.get(group):
            choice = HydraConfig.get().runtime.choices.get(group)
            raise SettingError(group, choice, f"leaves nothing to work with; one of {_choices(group)} would do")


def _check_alone() -> None:
    """Refuse to run in several processes, which would all do the same work and write the same files."""
    process = launched()
    if process is not None and process.world_size > 1:
        advice = f"{process.by} started this many, but this script works in one; only train.py uses several"
        raise SettingError("processes", process.world_size, advice)


def _choices(group: str) -> str:
    return ", ".join(sorted({path.stem for path in (CONF / group).glob("*.yaml")} - {"base", "none"}))


def _check_null(arguments: Sequence[str]) -> None:
    """Refuse ``data=null``, for which Hydra's error is unclear."""
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if choice == "null" and group and (CONF / group).is_dir():
            raise SettingError(group, choice, f"is no choice; one of {_choices(group)} would do")


def _explained(error: Exception, arguments: Sequence[str], config_name: str) -> Exception:
    """Return Hydra's error for a user's mistake as one that names the setting or choice."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "hydra/" not in error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.removesuffix(".yaml").partition("/")
        return choice_error(group, choice, CONF) if (CONF / group).is_dir() and choice else error
    if isinstance(error, HydraException):
        return setting_error(str(error), arguments, config_name, CONF) or error
    return error


def _report(error: Exception, leave: bool = True) -> None:
    """Print an error that users can understand as one line, and exit; return for any other error.

    Args:
        error: the error.
        leave: whether to exit.
    """
    if os.environ[TRACEBACKS] != "0" or isinstance(error, BrokenPipeError):
        return
    is_reported = is_further_process() and launched() is not None  # the first process has the same error
    if leave and is_reported and isinstance(error, SettingError | HydraException | OmegaConfBaseException):
        time.sleep(2)  # torchrun ends all processes when one fails, perhaps before the first prints the line
        sys.exit(2)
    if isinstance(error, MiniLLMError):
        status, text = error.exit_status, str(error)
    elif isinstance(error, MissingConfigException) and error.missing_cfg_file in PLUGINS:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        status, text = 2, f"{group}={choice}: is not installed; pip install -e '.[sweep]'"
    elif type(error).__module__ == "submitit.core.utils":  # a job was cancelled, or the queue refuses jobs
        status, text = 1, f"hydra/launcher: {error}"
    elif isinstance(error, HydraException | OmegaConfBaseException | MisconfigurationException):
        status, text = 2, str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        # A folder is a setting, status 2; a full disk is not.
        status = 1 if error.errno in (errno.ENOSPC, errno.EIO) else 2
        advice = "; hydra.run.dir=... and paths.data_dir=... choose other folders" if status == 2 else ""
        text = f"{error.filename}: {error.strerror}{advice}"
    elif isinstance(error, OSError) and error.errno is not None:
        status, text = 1, str(error)
    else:
        return
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    if leave:
        sys.exit(status)


def _quoted(argument: str, texts: tuple[str, ...]) -> str:
    """Return an override quoted so that Hydra takes its text literally."""
    key, equals, value = argument.partition("=")
    if not equals or key not in texts or re.fullmatch(r"""(?s)(['"]).*\1""", value):
        return argument
    # Hydra interprets a backslash only before a quote; OmegaConf interprets ${ unless a backslash precedes it.
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value).replace("${", "\\${")
    return f"{key}='{escaped}'"
