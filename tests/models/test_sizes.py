"""The ready sizes of conf/model/, built without memory."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from minillm.checkpoint import build_network
from minillm.configuration import plain

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("minigpt", 4.1),
        ("minigpt_base", 25),
        ("minigpt_medium", 120),
        ("minigpt_large", 350),
        ("minigpt_modern", 4.0),
        ("minigpt_modern_base", 25),
        ("minigpt_modern_medium", 120),
        ("minigpt_modern_large", 350),
        ("gpt2", 2.9),
    ],
)
def test_a_size_has_as_many_parameters_as_its_file_says(model: str, millions: float) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"model={model}", "paths.output_dir=unused"])
    with torch.device("meta"):
        network = build_network(plain(config.model), vocab_size=5000)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)
