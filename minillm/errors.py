"""The errors that users see as one line instead of a traceback."""

from typing import Any

MAX_SHOWN = 300  # characters of a value


def shown(value: Any) -> str:
    """Return a value as text for a terminal, shortened and without control characters."""
    try:
        text = str(value)
    except ValueError:  # Python refuses to print very long integers
        return "..."
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


class MiniLLMError(Exception):
    """Base of the errors with a message for users: one line that needs no traceback."""

    exit_status = 1


class SettingError(MiniLLMError, ValueError):
    """A setting that cannot work: names it, its value and what to change.

    Classes name only the argument (``num_heads``); `minillm.configuration.instantiate` adds the group
    (``model.num_heads``).

    Args:
        setting: name of the argument or the config key.
        value: its value.
        advice: what is wrong with it, and what to change.
    """

    exit_status = 2

    def __init__(self, setting: str, value: Any, advice: str) -> None:
        super().__init__(setting, value, advice)
        self.setting, self.value, self.advice = setting, value, advice

    def __str__(self) -> str:
        return f"{self.setting}={shown(self.value)}: {self.advice}"

    def within(self, group: str) -> "SettingError":
        """Return the error with the setting's full name, ``group.setting``; unchanged if it names the group itself."""
        inner = group and group != self.setting
        return SettingError(f"{group}.{self.setting}" if inner else self.setting, self.value, self.advice)


class OutsideError(MiniLLMError):
    """A failure outside the program (network, disk, a damaged file); finished work is kept."""


class DivergedError(MiniLLMError):
    """A training has diverged, or a model's figures are not finite; earlier checkpoints are kept."""
