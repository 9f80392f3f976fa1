"""Share the images of a prediction over processes of one machine; a process that is killed loses no image."""

import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import psutil

from segwright.inference.predictor import Predictor
from segwright.prediction import Job, Options, Output, Written, begin, existing, load, predict_file, results_of

ATTEMPTS = 2
"""Processes that may end over one image before it is given up."""

PATIENCE_S = 10.0
"""Seconds in which a process that is told to end may tidy up."""


def predict_shared(
    segmenter: Predictor,
    run: Path,
    loading: dict[str, Any],
    images: Sequence[Path],
    out: Path,
    options: Options | None = None,
    *,
    workers: int,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Written:
    """Segment files as `prediction.predict_files` does, several at a time, each in a process of its own.

    The image of a process that is killed goes to another one, and fails when that ends over it too. The processes share
    the cores among them, and end with the caller, be it by Ctrl-C or by a kill. A script that calls this needs
    `if __name__ == "__main__":`, because each process imports it.

    Args:
        segmenter: From `segwright.load`.
        run: The folder that it was loaded from.
        loading: The keywords that it was loaded with.
        images: Files to segment.
        out: Folder to write to.
        options: What is written.
        workers: Number of processes; no more are started than there are images.
        resume: As in `prediction.predict_files`.
        progress: Called with 1 for each image that is done, was there already, or failed.

    Raises:
        ValueError: As `prediction.predict_files`, or if a process cannot load the segmenter.
        OSError: If the results cannot be written, for example on a full disk.
        RuntimeError: If an engine fails, or processes end again and again before they have loaded the segmenter.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, but 1 or more are needed; give the number of processes")
    options, advance = options or Options(), progress or (lambda _: None)
    jobs = begin(segmenter, images, out, options, resume=resume)
    kept: dict[Job, Path] = {}
    for job in jobs if resume else ():
        if (found := existing(job, options.output)) is not None:
            kept[job] = found
            advance(1)
    # A file that was named twice has one result, which two processes must not write at once.
    todo = Counter(job for job in jobs if job not in kept)
    results: dict[Job, Path | str] = {}
    made_by = (segmenter.key, segmenter.runtime)
    crew = _Crew(todo, partial(_work, run, loading, options, resume=resume, made_by=made_by), workers)
    try:
        for job, result in crew.results():
            results[job] = result
            advance(todo[job])
    finally:
        crew.dismiss()
    done = [file for job in jobs if isinstance(file := results.get(job), Path)]
    failed = {job.image: reason for job in jobs if isinstance(reason := results.get(job), str)}
    return Written(done, [kept[job] for job in jobs if job in kept], failed)


class _Worker:
    """A process and the pipe to it, which no other process shares, so that a kill leaves nothing locked."""

    def __init__(self, number: int, cores: Sequence[int], work: Callable[..., None]) -> None:
        self.number = number
        self.is_ready = False  # it has loaded the segmenter
        self.job: Job | None = None  # what it is at
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(cores, theirs), daemon=True)
        with _interrupts_held_back():
            self.process.start()
        theirs.close()  # now the pipe ends when the process does

    def give(self, job: Job) -> None:
        """Let it segment an image."""
        self.job = job
        with suppress(OSError):  # it has just ended, which is what is heard of it next
            self.connection.send(job)

    def hear(self) -> Path | str | None:
        """The file that it wrote, or why it could not segment the image; None if it has loaded the segmenter.

        Raises:
            EOFError: If it has ended.
            Exception: What must stop all, as `predict_shared` says.
        """
        try:
            answer: Path | str | Exception | None = self.connection.recv()
        except OSError:  # it ended within a message
            raise EOFError from None
        if isinstance(answer, Exception):
            raise answer
        self.is_ready, self.job = True, None
        return answer

    def end(self, patience_s: float = PATIENCE_S) -> str:
        """Wait for its end, remove what it left unfinished, and say how it ended."""
        self.process.join(patience_s)
        self.process.kill()
        self.process.join()
        self.connection.close()
        if self.job is not None:
            _remove_unfinished(self.job)
        code = self.process.exitcode or 0
        return f"exit code {code}" if code >= 0 else f"signal {-code}"


class _Crew:
    """The processes that share images."""

    def __init__(self, jobs: Iterable[Job], work: Callable[..., None], workers: int) -> None:
        self._waiting, self._work = deque(jobs), work
        self._shares = _share_cores(max(1, min(workers, len(self._waiting))))
        self._workers: list[_Worker] = []
        self._attempts: Counter[Job] = Counter()
        self._failed_starts = 0

    def dismiss(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + PATIENCE_S
        for worker in self._workers:
            worker.end(max(until - time.monotonic(), 0))

    def results(self) -> Iterator[tuple[Job, Path | str]]:
        """The file or the failure of each image, as they come."""
        while self._waiting or any(worker.job for worker in self._workers):
            self._set_to_work()
            ready = wait([worker.connection for worker in self._workers])
            for worker in [one for one in self._workers if one.connection in ready]:
                job = worker.job
                try:
                    result = worker.hear()
                    self._failed_starts = self._failed_starts if job else 0
                except EOFError:
                    result = self._lose(worker)
                if job is not None and result is not None:
                    yield job, result

    def _set_to_work(self) -> None:
        """Give images to those that are idle, and start as many processes as are missing."""
        for worker in self._workers:
            if worker.is_ready and worker.job is None and self._waiting:
                worker.give(self._waiting.popleft())
        starting = sum(not worker.is_ready for worker in self._workers)
        free = sorted(set(range(len(self._shares))) - {worker.number for worker in self._workers})
        for number in free[: max(len(self._waiting) - starting, 0)]:
            self._workers.append(_Worker(number, self._shares[number], self._work))

    def _lose(self, worker: _Worker) -> str | None:
        """Take leave of a process that has ended; the reason if its image is given up."""
        self._workers.remove(worker)
        how = worker.end()
        if worker.job is not None:
            self._attempts[worker.job] += 1
            if self._attempts[worker.job] == ATTEMPTS:
                return (
                    f"the process ended while it was segmented; so did the next one ({how}); if memory ran out, give "
                    "fewer workers or a smaller image"
                )
            # Behind all others, when fewer processes may need memory beside it.
            self._waiting.append(worker.job)
        elif not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > len(self._shares):
                raise RuntimeError(
                    f"{self._failed_starts} processes, one after the other, ended before they had loaded the segmenter "
                    f"({how}); give fewer workers if memory ran out, or 1 to see why"
                )
        return None


def _work(
    run: Path,
    loading: dict[str, Any],
    options: Options,
    cores: Sequence[int],
    connection: Connection,
    *,
    resume: bool,
    made_by: tuple[str, str],
) -> None:
    """What a process does: segment one image after the other until the pipe ends."""
    # The terminal sends Ctrl-C to all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # unfinished files are removed on the way out
    Thread(target=_end_with_parent, daemon=True).start()
    _use(cores)
    try:
        segmenter = load(run, **loading)
        if (segmenter.key, segmenter.runtime) != made_by:
            raise ValueError(f"{run} is another segmenter now than at the start; predict with a copy, from the start")
    except (ValueError, OSError, RuntimeError) as error:
        connection.send(_plain(error))
        return
    with suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            job = connection.recv()
            answer: Path | str | Exception
            try:
                answer = predict_file(segmenter, job, options, resume=resume)
            except ValueError as error:
                answer = str(error)
            except (OSError, RuntimeError) as error:
                answer = _plain(error)
            connection.send(answer)


def _plain(error: ValueError | OSError | RuntimeError) -> Exception:
    """The error without what may not go through a pipe."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return next(kind for kind in (ValueError, OSError, RuntimeError) if isinstance(error, kind))(str(error))


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os._exit(1)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that no Ctrl-C reaches, not even before their first line; the caller gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would start with the first process, and undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share_cores(workers: int) -> list[Sequence[int]]:
    """Cores of each process, those of one package and the threads of one core together."""
    is_known = hasattr(psutil.Process, "cpu_affinity")  # not on macOS
    cores = sorted(psutil.Process().cpu_affinity() if is_known else range(os.cpu_count() or 1), key=_place)
    bounds = [number * len(cores) // workers for number in range(workers + 1)]
    return [cores[bounds[n] : bounds[n + 1]] or [cores[n % len(cores)]] for n in range(workers)]


def _place(core: int) -> tuple[int, int, int]:
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    if not folder.is_dir():  # not Linux
        return 0, 0, core
    return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text()), core


def _use(cores: Sequence[int]) -> None:
    """Bind this process to cores, and let libraries start as many threads."""
    if hasattr(psutil.Process, "cpu_affinity"):
        psutil.Process().cpu_affinity(list(cores))
    os.environ.setdefault("OMP_NUM_THREADS", str(len(cores)))
    if "torch" in sys.modules:  # it counted the cores when the caller's main module imported it
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _remove_unfinished(job: Job) -> None:
    """Remove what `write_whole` left; the rows of a large mask, which have a `.part.json`, stay for `resume`."""
    for result in chain(*(results_of(job, output) for output in get_args(Output))):
        part = result.with_name(result.name + ".part")
        with suppress(OSError):  # the error that ended all is the one to tell
            if not part.with_name(part.name + ".json").exists():
                part.unlink()
