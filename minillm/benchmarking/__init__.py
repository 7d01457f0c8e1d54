"""How fast the project is, and in how much memory, measured beside other libraries.

Each part of the benchmark has a file: `training`, `decoding`, `text`, `corpus`, `processes` and `quality`. What is
measured is in `ours` and `peers`, each contestant in a process of its own (`worker`); `benchmark` runs the parts.
"""
