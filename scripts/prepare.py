"""Prepare the data alone, here or on a cluster: `python scripts/prepare.py data=wikipedia`; train.py finds it done."""

from omegaconf import DictConfig

import minillm.starting  # noqa: F401 # a signal is answered from here on
from minillm import console
from minillm.cli import script
from minillm.configuration import instantiate


@script("prepare", {"seed": int}, groups=("data", "tokenizer", "engine"))
def prepare(config: DictConfig) -> None:
    """Fetch, clean, filter, split and encode the articles; show the funnel and where everything lies."""
    engine = instantiate(config, "engine")
    data = instantiate(config, "data", tokenizer=instantiate(config, "tokenizer"), engine=engine)
    data.prepare_data()
    data.setup()
    console.show_data(data.manifest, data.corpus.prepare())
    console.show_corpus_files(data.corpus.prepare(), data.folder)


if __name__ == "__main__":
    prepare()
