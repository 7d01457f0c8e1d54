"""Imported first by each script: Ctrl-C and SIGTERM are answered while the rest, which takes seconds, is imported."""

from minillm.signals import signals

signals.answer(starting=True)
