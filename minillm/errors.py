"""The errors that reach a user as one line instead of a traceback."""

from typing import Any

SHOWN = 300  # characters of a value


def shown(value: Any) -> str:
    """Return a value as text for a terminal: short, and nothing in it that a terminal would obey."""
    try:
        text = str(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "..."
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class MiniLLMError(Exception):
    """Base of the errors whose message is meant for the user's eyes: one line, complete in itself."""

    exit_status = 1


class SettingError(MiniLLMError, ValueError):
    """A setting that cannot work: names it, its value and what would do.

    Classes name the argument alone (``num_heads``); whoever builds them from a config puts the group before it
    (``model.num_heads``), see `minillm.configuration.instantiate`.

    Args:
        setting: name of the argument or the config key.
        value: what it was set to.
        advice: what is wrong with it and what would do.
    """

    exit_status = 2

    def __init__(self, setting: str, value: Any, advice: str) -> None:
        super().__init__(setting, value, advice)
        self.setting, self.value, self.advice = setting, value, advice

    def __str__(self) -> str:
        return f"{self.setting}={shown(self.value)}: {self.advice}"

    def within(self, group: str) -> "SettingError":
        """Return the same error with the setting's full name, ``group.setting``; one that names the group stays."""
        inner = group and group != self.setting
        return SettingError(f"{group}.{self.setting}" if inner else self.setting, self.value, self.advice)


class OutsideError(MiniLLMError):
    """A fault outside the program (network, disk, a damaged file): one line; what was done so far is kept."""


class DivergedError(MiniLLMError):
    """A training, or the model that it left, whose figures are no numbers any more: one line; checkpoints are kept."""
