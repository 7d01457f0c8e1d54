"""Imported first by each script, to handle Ctrl-C and SIGTERM during the other imports, which take seconds."""

from minillm.signals import signals

signals.answer(starting=True)
