import csv
from pathlib import Path

import pytest

from minillm.training import MetricsCSV


def write(folder: Path, *rows: tuple[int, dict[str, float]], resumed: int | None = None) -> None:
    logger = MetricsCSV(str(folder))
    if resumed is not None:
        logger.rewind(resumed)
    for step, metrics in rows:
        logger.log_metrics({"epoch": 0.0, **metrics}, step)
    logger.save()


def read(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [(row["step"], row["train/loss"], row.get("val/loss", "")) for row in csv.DictReader(file)]


def test_a_resumed_run_replaces_what_was_logged_behind_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, *((step, {"train/loss": step / 2}) for step in (9, 19, 29, 39)), (39, {"val/loss": 7.0}))
    write(tmp_path, (29, {"train/loss": 1.0}), (39, {"train/loss": 2.0}), (49, {"train/loss": 3.0}))
    assert read(tmp_path) == [
        *(("9", "4.5", ""), ("19", "9.5", "")),
        *(("29", "1.0", ""), ("39", "2.0", ""), ("49", "3.0", "")),
    ]


def test_what_was_logged_up_to_the_checkpoint_stays_whatever_is_logged_next(tmp_path: Path) -> None:
    write(
        tmp_path, (9, {"train/loss": 4.5}), (9, {"val/loss": 6.0}), (12, {"val/loss": 5.5}), (19, {"train/loss": 4.0})
    )
    write(tmp_path, (19, {"train/loss": 4.0}), resumed=10)  # 12: by the clock, before the run was killed
    assert read(tmp_path) == [("9", "4.5", ""), ("9", "", "6.0"), ("19", "4.0", "")]


def test_half_a_line_of_a_killed_run_is_taken_out(tmp_path: Path) -> None:
    write(tmp_path, (9, {"train/loss": 4.5}), (19, {"train/loss": 4.0}))
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "0.0,2")
    write(tmp_path, (29, {"train/loss": 3.5, "val/loss": 6.0}))
    assert read(tmp_path) == [("9", "4.5", ""), ("19", "4.0", ""), ("29", "3.5", "6.0")]


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, *((step, {"train/loss": 4.5}) for step in (9, 19, 29, 39)))
    path = tmp_path / "metrics.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = [lines[0], lines[1].replace(b"9", b"\xff"), lines[2].replace(b",", b""), b",1" + lines[3], lines[4]]
    path.write_bytes(b"".join(damaged))
    write(tmp_path, (49, {"train/loss": 3.5}))
    assert read(tmp_path) == [("39", "4.5", ""), ("49", "3.5", "")]
    assert caplog.messages == [f"{path}: 3 damaged lines are removed"]


def test_a_file_whose_head_is_damaged_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, (9, {"train/loss": 4.5}))
    path = tmp_path / "metrics.csv"
    damaged = path.read_text().replace("step", "stgp")
    path.write_text(damaged)
    write(tmp_path, (19, {"train/loss": 3.5}))
    assert read(tmp_path) == [("19", "3.5", "")]
    assert (tmp_path / "metrics.damaged.csv").read_text() == damaged
    assert caplog.messages == [f"{path} is damaged; it is renamed to metrics.damaged.csv, and a new one is started"]
