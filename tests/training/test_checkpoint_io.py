from pathlib import Path

import pytest
import torch

from minillm.errors import OutsideError
from minillm.training.checkpoint_io import WholeCheckpoints


def test_a_checkpoint_reads_as_it_was_written_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    for step in 1, 2:
        WholeCheckpoints().save_checkpoint({"step": step, "weights": torch.arange(step)}, path)
    saved = torch.load(path, weights_only=True)
    assert (saved["step"], saved["weights"].tolist()) == (2, [0, 1])
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        WholeCheckpoints().save_checkpoint({"weights": torch.zeros(10_000), "step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutsideError, match=r"last\.ckpt: cannot be written") as caught:
        WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "file" / "last.ckpt")
    assert "\n" not in str(caught.value)
