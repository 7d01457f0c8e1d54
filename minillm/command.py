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
    """Return a folder that is beside the package in a checkout, and inside it in an installation."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


CONF = resource("conf")

_started_as_command = False


def spelled(script: str) -> str:
    """Return the command that starts a script, in the form in which the user started this program."""
    return named(script) if _started_as_command else f"python {named(script)}"


def named(script: str) -> str:
    """Return a script's name for a sentence, in the form in which the user started this program."""
    return f"minillm {script}" if _started_as_command else f"scripts/{script}.py"


def main() -> None:
    """Run the script named by the first argument, with the other arguments; the exit status is the script's."""
    import argcomplete  # here, since many modules import this one

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
    # Lightning starts further processes of a run from this path.
    sys.argv = [str(scripts[chosen.command]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _completions(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Iterator[str]:
    """Yield the completions of a word: a group's choices after ``group=``, otherwise names of settings and groups."""
    from minillm.configuration import flat
    from minillm.help_page import choices, defaults, groups

    name, equals, _value = prefix.partition("=")
    if equals and (CONF / name).is_dir():
        yield from (f"{name}={choice}" for choice, _what in choices(name, CONF) if not choice.endswith("/..."))
    elif not equals:
        yield "--help"
        names = {*flat(defaults(parsed_args.command, CONF)), *(group for group, _ in groups(parsed_args.command, CONF))}
        yield from (f"{each}=" for each in sorted(names))
