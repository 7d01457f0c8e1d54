"""The page of `scripts/demo.py`: a model's writing, reading, attention and audit.

`labels` has its words, `asking` queries the model, `render` makes HTML, `blocks` builds the page, `server` serves it.
"""
