"""Compare runs: `python scripts/compare.py runs=[outputs/multirun/x] sort_by=test/accuracy`."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.cli import script
from minillm.configuration import plain
from minillm.evaluation.comparison import compare

SETTINGS = {
    "runs": str | list[str],
    "sort_by": str,
    "metrics": list[str],
    "over": str | None,
    "failed": bool,
    "output_dir": str | None,
}


@script("compare", SETTINGS)
def main(config: DictConfig) -> None:
    """Show the runs in one table, on the terminal and in files."""
    settings = plain(config)
    places = [settings["runs"]] if isinstance(settings["runs"], str) else settings["runs"]
    comparison = compare(places, settings["metrics"], settings["sort_by"], settings["over"], settings["failed"])
    console = Console()
    comparison.show(console)
    if settings["output_dir"] is not None:
        comparison.write(Path(settings["output_dir"]))
        console.print(f"{settings['output_dir']}/comparison.md, .csv and .html", markup=False, highlight=False)


if __name__ == "__main__":
    main()
