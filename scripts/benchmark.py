"""Measure speed and memory beside other libraries: `python scripts/benchmark.py parts=[training,decoding]`."""

import os
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.benchmarking.benchmark import choose, run
from minillm.cli import script
from minillm.configuration import instantiate


@script("benchmark", {"seed": int, "parts": list[str], "rounds": int})
def benchmark(config: DictConfig) -> None:
    """Measure the parts that were asked for; show the tables, and leave figures and drawings."""
    parts = choose(instantiate(config, "benchmark"), config.parts)
    folder, console = Path(config.paths.output_dir), Console()
    result = run(config, parts, config.rounds, folder, console)
    where = os.path.relpath(folder)
    console.print(f"{result['seconds']:,.0f} s; {where}/benchmark.json and .png", markup=False, highlight=False)


if __name__ == "__main__":
    benchmark()
