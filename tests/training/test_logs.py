"""Tests of the log of a run."""

from pathlib import Path

from segwright.training.logs import STEP_COLUMNS, RunLog, read_rows


def row(step: int) -> dict[str, float]:
    return dict.fromkeys(STEP_COLUMNS, 0.5) | {"step": step}


def test_rows_come_back_as_numbers(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.step(row(1))
    log.step(row(2))
    log.close()
    assert [entry["step"] for entry in read_rows(tmp_path / "log.csv")] == [1, 2]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_resumed_log_drops_rows_after_its_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.step(row(step))
    log.close()
    again = RunLog(tmp_path, 2)
    again.step(row(3))
    again.close()
    assert [entry["step"] for entry in read_rows(tmp_path / "log.csv")] == [1, 2, 3]


def test_a_row_that_a_kill_cut_is_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.step(row(1))
    log.close()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("2,0.5,0.")
    assert [entry["step"] for entry in read_rows(tmp_path / "log.csv")] == [1]
