"""Tests of sharing images over processes, which are killed and interrupted while they are at an image."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import psutil
import pytest

from segwright.inference.segmenter import Segmenter
from segwright.prediction import Written, find_images, load, predict_files
from segwright.sharing import predict_shared

TORCH: dict[str, Any] = {"runtime": "torch"}
DEADLINE_S = 60.0

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the system which process has a file open")


@pytest.fixture
def run(tiny_segmenter: Segmenter, tmp_path: Path) -> Path:
    tiny_segmenter.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Twelve small images of different sizes in two folders."""
    for number in range(12):
        write_image(tmp_path / "in" / "ab"[number % 2] / f"{number:02d}.png")
    return find_images(str(tmp_path / "in"))


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = int(path.stem)
    pixels = np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)


def share(run: Path, images: list[Path], out: Path, **keywords: Any) -> Written:
    return predict_shared(load(run, **TORCH), run, TORCH, images, out, **{"workers": 2, **keywords})


def alone(run: Path, images: list[Path], out: Path) -> Written:
    return predict_files(load(run, **TORCH), images, out)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class Trap:
    """A named pipe in the place of an image, which comes back in the end: a process that reads it waits."""

    def __init__(self, image: Path) -> None:
        self.image = image
        image.unlink()
        os.mkfifo(image)
        self._end = os.open(image, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        os.close(self._end)

    def remove(self) -> None:
        """Let the next process read the image; one that is caught stays so."""
        self.image.unlink()
        write_image(self.image)

    def caught(self, parent: int, besides: psutil.Process | None = None) -> psutil.Process:
        """The process below `parent` that is at this image, once there is one; `besides` does not count."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            for process in psutil.Process(parent).children(recursive=True):
                if process != besides and self._is_open_in(process):
                    return process
            time.sleep(0.02)
        raise AssertionError(f"no process came to {self.image}")

    def _is_open_in(self, process: psutil.Process) -> bool:
        try:
            files = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        except OSError:  # it has just ended
            return False
        return str(self.image) in files


# Results


@pytest.mark.slow
def test_results_are_those_of_one_process_in_the_order_of_the_images(
    run: Path, images: list[Path], tmp_path: Path
) -> None:
    images[3].write_bytes(images[3].read_bytes()[:500])
    advances: list[float] = []
    shared = share(run, [*images, images[0]], tmp_path / "shared", progress=advances.append)
    expected = alone(run, [*images, images[0]], tmp_path / "alone")
    assert [file.relative_to(tmp_path / "shared") for file in shared.done] == [
        file.relative_to(tmp_path / "alone") for file in expected.done
    ]
    assert shared.failed == expected.failed
    assert list(shared.failed) == [images[3]]
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    assert sum(advances) == 13


@pytest.mark.slow
def test_resume_keeps_what_is_there(run: Path, images: list[Path], tmp_path: Path) -> None:
    out, advances = tmp_path / "out", list[float]()
    first = alone(run, images, out)
    lost = first.done.pop(5)
    expected = lost.read_bytes()
    lost.unlink()
    first.done[0].write_bytes(b"kept")
    written = share(run, images, out, resume=True, progress=advances.append)
    assert (written.done, written.kept, written.failed) == ([lost], first.done, {})
    assert lost.read_bytes() == expected
    assert first.done[0].read_bytes() == b"kept"
    assert sum(advances) == 12


def test_where_all_is_done_no_process_starts(run: Path, images: list[Path], tmp_path: Path) -> None:
    done = alone(run, images, tmp_path / "out").done
    written = predict_shared(
        load(run, **TORCH), Path("nowhere"), TORCH, images, tmp_path / "out", workers=2, resume=True
    )
    assert (written.done, written.kept) == ([], done)


# Processes that end


@needs_linux
@pytest.mark.slow
def test_an_image_whose_process_is_killed_once_is_done_and_twice_is_named(
    run: Path, images: list[Path], tmp_path: Path
) -> None:
    expected = alone(run, images, tmp_path / "alone")
    out, parent, cores = tmp_path / "out", os.getpid(), list[set[int]]()
    half = out / images[7].relative_to(tmp_path / "in").with_suffix(".png.part")

    def kill(once: Trap, twice: Trap) -> None:
        with once, twice:
            victims = [once.caught(parent), twice.caught(parent)]
            cores.extend(set(victim.cpu_affinity()) for victim in victims)
            once.remove()
            half.write_bytes(b"what a kill leaves")
            for victim in victims:
                victim.kill()
            twice.caught(parent, besides=victims[1]).kill()

    with ThreadPoolExecutor() as pool:
        killing = pool.submit(kill, Trap(images[2]), Trap(images[7]))
        written = share(run, images, out)
        killing.result()
    assert list(written.failed) == [images[7]]
    assert "the process ended while it was segmented" in written.failed[images[7]]
    assert "signal 9" in written.failed[images[7]]
    del expected.done[7]
    (tmp_path / "alone" / half.relative_to(out).with_suffix("")).unlink()
    assert contents(out) == contents(tmp_path / "alone")
    assert [file.relative_to(out) for file in written.done] == [
        file.relative_to(tmp_path / "alone") for file in expected.done
    ]
    assert len(os.sched_getaffinity(0)) == 1 or not cores[0] & cores[1]


class Deadly:
    """Ends the process that is given it."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (7,)


@pytest.mark.slow
def test_processes_that_end_at_their_start_are_one_sentence(run: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^3 processes, .* \(exit code 7\); give fewer workers if memory ran out"):
        predict_shared(load(run, **TORCH), run, {"runtime": Deadly()}, images, tmp_path / "out", workers=2)


@pytest.mark.slow
def test_a_segmenter_that_a_process_cannot_load_is_one_sentence(run: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segmenter"):
        predict_shared(load(run, **TORCH), tmp_path, TORCH, images, tmp_path / "out", workers=1)


@pytest.mark.slow
def test_other_weights_than_at_the_start_are_refused(
    tiny_segmenter: Segmenter, run: Path, images: list[Path], tmp_path: Path
) -> None:
    at_start = load(run, **TORCH)
    next(tiny_segmenter.parameters()).data.zero_()
    tiny_segmenter.save(run)
    with pytest.raises(ValueError, match="is another segmenter now than at the start"):
        predict_shared(at_start, run, TORCH, images, tmp_path / "out", workers=1)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_stops_all_with_the_error_of_the_system(
    run: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("not a folder")
    with pytest.raises(FileExistsError) as caught:
        share(run, images, tmp_path / "out", workers=1)
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(tmp_path / "out" / "b")


def test_no_process_is_too_few(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0, but 1 or more are needed"):
        share(run, [], tmp_path / "out", workers=0)


# The command line


def start(run: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    """The real command in a group of processes of its own, as a shell starts it."""
    command = [sys.executable, "-m", "segwright.cli", "predict", run, source, "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--workers", "2", "--runtime", "torch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The first two that the command starts, once they are there."""
    found: list[psutil.Process] = []
    while len(found) < 2 and process.poll() is None:
        time.sleep(0.01)
        children = psutil.Process(process.pid).children()
        found = [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    return found


def assert_all_end(group: int) -> None:
    end = time.monotonic() + 15
    while left := [process for process in psutil.process_iter() if is_alive_in(process, group)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def is_alive_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


@needs_linux
@pytest.mark.slow
@pytest.mark.whole
def test_ctrl_c_ends_all_processes_without_a_traceback(run: Path, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Trap(images[2]) as trap:
        process = start(run, tmp_path / "in", out)
        for worker in workers_of(process):
            worker.send_signal(signal.SIGINT)  # while they start
        trap.caught(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert "--resume" in output
    assert errors == ""
    assert_all_end(process.pid)
    assert not list(out.rglob("*.part"))


@needs_linux
@pytest.mark.slow
@pytest.mark.whole
def test_the_processes_end_with_a_parent_that_is_killed(run: Path, images: list[Path], tmp_path: Path) -> None:
    with Trap(images[2]) as trap:
        process = start(run, tmp_path / "in", tmp_path / "out")
        trap.caught(process.pid)
        process.kill()
        process.wait()
        assert_all_end(process.pid)
        assert process.communicate()[1] == ""
