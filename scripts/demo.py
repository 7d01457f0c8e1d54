"""Open a page that shows a model from within: `python scripts/demo.py ckpt=latest`; `--help` says more."""

import importlib.util
from typing import Literal

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm.cli import script
from minillm.configuration import instantiate
from minillm.errors import SettingError
from minillm.signals import signals

SETTINGS = {
    "ckpt": str,
    "other": str | None,
    "trusted": list[str],
    "host": str,
    "port": int | None,
    "lang": Literal["es", "en"] | None,
}


@script("demo", SETTINGS)
def demo(config: DictConfig) -> None:
    """Open the checkpoints, print the page's address, and serve it until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise SettingError("demo", "gradio", "is not installed; pip install -e '.[demo]'")
    from minillm.inspection.page.asking import Subject
    from minillm.inspection.page.server import address_of, listen, serve

    limits = instantiate(config, "limits")
    listening = listen(config.host, config.port)
    with listening:
        named = {"ckpt": config.ckpt, "other": config.other}
        subjects = [
            Subject.of(setting, ckpt, config.paths.data_dir, list(config.trusted))
            for setting, ckpt in named.items()
            if ckpt is not None
        ]
        signals.how = lambda: "the same command opens the page again"
        shown = " and ".join(subject.name for subject in subjects)
        print(f"{address_of(listening)} shows {shown}; Ctrl-C ends it", flush=True)
        serve(subjects, listening, config.lang, limits)


if __name__ == "__main__":
    demo()
