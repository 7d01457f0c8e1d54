"""The page that `scripts/demo.py` opens: a model writes, reads, attends and is audited before one's eyes.

`labels` has its words, `render` makes HTML of what `asking` finds out, `blocks` puts it together, `server` serves it.
"""
