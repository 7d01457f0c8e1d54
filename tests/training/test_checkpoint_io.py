import zipfile
from pathlib import Path

import pytest
import torch

from minillm.checkpoint import check_seal
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


def test_a_full_disk_is_called_so_and_the_checkpoint_before_is_kept(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, path)
    for floats in 10**6, 230_000, 258_500:  # far too many, or just enough to have no room for the end
        with pytest.raises(OutsideError, match=r"last\.ckpt: cannot be written \(disk full\)$"):
            WholeCheckpoints().save_checkpoint({"weights": torch.zeros(floats), "more": "x" * 150_000}, path)
        assert torch.load(path, weights_only=True) == {"step": 1}
        assert list(small_disk.iterdir()) == [path]


def test_any_change_of_a_checkpoint_breaks_its_seal_and_one_without_a_seal_is_checked_by_its_records(
    tmp_path: Path,
) -> None:
    sealed, plain = tmp_path / "sealed.ckpt", tmp_path / "plain.ckpt"
    WholeCheckpoints().save_checkpoint({"weights": torch.arange(100)}, sealed)
    torch.save({"weights": torch.arange(100)}, plain)
    with zipfile.ZipFile(sealed) as archive:
        assert archive.comment.startswith(b"sha256:")
        [weights] = [name for name in archive.namelist() if name.endswith("data/0")]
        record = sealed.read_bytes().index(archive.read(weights))
    check_seal(sealed)
    check_seal(plain)
    whole = sealed.read_bytes()
    for position in range(0, len(whole), 7):
        sealed.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"SHA-256|cut short"):
            check_seal(sealed)
    for cut in whole[:-1], whole[:-71], whole[:-73], whole[:-100], whole[: len(whole) // 2], whole[:10], b"":
        sealed.write_bytes(cut)
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            check_seal(sealed)
    whole = plain.read_bytes()
    plain.write_bytes(whole[:record] + bytes([whole[record] ^ 1]) + whole[record + 1 :])
    with pytest.raises(ValueError, match="data/0 is damaged"):
        check_seal(plain)
