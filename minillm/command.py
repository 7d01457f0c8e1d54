"""The command ``minillm``: ``minillm train model=minigpt`` is ``python scripts/train.py model=minigpt``.

Completion of commands, settings and choices in bash, zsh and fish::

    eval "$(register-python-argcomplete minillm)"
"""

import argparse
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import argcomplete

PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Return a folder that stands beside the package in a checkout, and within it once it is installed."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


CONF = resource("conf")
SCRIPTS = {path.stem: path for path in sorted(resource("scripts").glob("*.py"))}


def spelled(script: str) -> str:
    """Return how a user starts a script, by the way in which this program was started: for advice on the terminal."""
    return f"minillm {script}" if _started_as_command else f"python scripts/{script}.py"


_started_as_command = False


def main() -> None:
    """Run the script that the first word names, with the rest as its command line; the exit status is the script's."""
    global _started_as_command
    parser = argparse.ArgumentParser(
        "minillm",
        description="Trains a small language model from scratch, with numbers that can be believed.",
        epilog="minillm COMMAND --help says more.",
        usage="minillm COMMAND [NAME=VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_argument("command", choices=[*SCRIPTS], metavar="COMMAND", help=", ".join(SCRIPTS))
    settings = parser.add_argument("settings", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    commands.completer = lambda prefix, **_: [*SCRIPTS]  # type: ignore[attr-defined]
    settings.completer = _completions  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)
    chosen = parser.parse_args(sys.argv[1:2])
    _started_as_command = True
    # The script is also what further processes of a run are started from.
    sys.argv = [str(SCRIPTS[chosen.command]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _completions(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Iterator[str]:
    """Yield what a word of a command line may become: a group's choices after ``group=``, settings' names before."""
    from minillm.configuration import flat
    from minillm.help_page import choices, defaults

    name, equals, _value = prefix.partition("=")
    if equals and (CONF / name).is_dir():
        yield from (f"{name}={choice}" for choice, _what in choices(name, CONF) if not choice.endswith("/..."))
    elif not equals:
        yield "--help"
        names = {*flat(defaults(parsed_args.command, CONF))}
        groups = {path.name for path in CONF.iterdir() if path.is_dir()}
        yield from (f"{each}=" for each in sorted(names | {group for group in groups if group != "hydra"}))
