"""The command ``minillm``: ``minillm train model=minigpt`` is ``python scripts/train.py model=minigpt``.

Completion of commands, settings and choices in bash, zsh and fish::

    eval "$(register-python-argcomplete minillm)"
"""

import argparse
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path


def resource(name: str) -> Path:
    """Return a folder that stands beside the package in a checkout, and within it once it is installed."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


CONF = resource("conf")

_started_as_command = False


def spelled(script: str) -> str:
    """Return how a user starts a script, by the way in which this program was started: for advice on the terminal."""
    return named(script) if _started_as_command else f"python {named(script)}"


def named(script: str) -> str:
    """Return what a script is called in a sentence, by the way in which this program was started."""
    return f"minillm {script}" if _started_as_command else f"scripts/{script}.py"


def main() -> None:
    """Run the script that the first word names, with the rest as its command line; the exit status is the script's."""
    import argcomplete  # here, since all that gives advice imports this module

    global _started_as_command
    scripts = {path.stem: path for path in sorted(resource("scripts").glob("*.py"))}
    parser = argparse.ArgumentParser(
        "minillm",
        description="Trains a small language model from scratch, with numbers that can be believed.",
        epilog="minillm COMMAND --help says more.",
        usage="minillm COMMAND [NAME=VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_argument("command", choices=[*scripts], metavar="COMMAND", help=", ".join(scripts))
    settings = parser.add_argument("settings", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    commands.completer = lambda prefix, **_: [*scripts]  # type: ignore[attr-defined]
    settings.completer = _completions  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)
    chosen = parser.parse_args(sys.argv[1:2])
    _started_as_command = True
    # The script is also what further processes of a run are started from.
    sys.argv = [str(scripts[chosen.command]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _completions(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Iterator[str]:
    """Yield what a word of a command line may become: a group's choices after ``group=``, settings' names before."""
    from minillm.configuration import flat
    from minillm.help_page import choices, defaults, groups

    name, equals, _value = prefix.partition("=")
    if equals and (CONF / name).is_dir():
        yield from (f"{name}={choice}" for choice, _what in choices(name, CONF) if not choice.endswith("/..."))
    elif not equals:
        yield "--help"
        names = {*flat(defaults(parsed_args.command, CONF)), *(group for group, _ in groups(parsed_args.command, CONF))}
        yield from (f"{each}=" for each in sorted(names))
