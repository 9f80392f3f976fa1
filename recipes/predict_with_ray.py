"""Segment the images of a folder or a bucket on all machines of a Ray cluster, or on this machine alone.

Needs      pip install "segwright[fast]" ray, on each machine; s3fs for s3:// addresses, gcsfs for gs:// addresses
Command    python recipes/predict_with_ray.py RUN IMAGES OUT
Example    python recipes/predict_with_ray.py s3://clinic/segmenter s3://clinic/slides s3://clinic/masks --cores 8

RUN is the folder of a segmenter, a run or an export. Each of the three is a folder that all machines have, or an
address that fsspec reads. The masks are those of `segwright predict`, under the names of the images in the same
subfolders.

Each process loads the segmenter once and takes one image at a time. A mask appears whole or not at all, and an image
whose mask is there is skipped, so the same command goes on with what was stopped. When a process or its machine is
lost, or a bucket fails, the image is tried again. Images that fail are named in the end, and the exit code is 1.

This is a recipe: copy it and change it. Of segwright it needs `load` and `predict_file` alone.
"""

import argparse
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

try:
    import ray
except ImportError:
    sys.exit("Error: this recipe needs Ray on each machine; pip install ray")

import fsspec
from fsspec.implementations.local import LocalFileSystem

from segwright.data.images import IMAGE_SUFFIXES
from segwright.prediction import Job, Options, load, predict_file

ATTEMPTS = 3
"""How often an image is tried while processes, machines or buckets fail."""


class SegmentingProcess:
    """A process that has loaded a segmenter.

    Args:
        run: Address of the segmenter.
        images: Address of the images.
        out: Address of the masks.
    """

    def __init__(self, run: str, images: str, out: str) -> None:
        files, root = fsspec.core.url_to_fs(run)
        if not isinstance(files, LocalFileSystem):
            self._copy = tempfile.TemporaryDirectory()  # gone with the process
            files.get(f"{root}/", self._copy.name, recursive=True)
            root = self._copy.name
        self._segmenter = load(root)
        self._images, self._images_root = fsspec.core.url_to_fs(images)
        self._out, self._out_root = fsspec.core.url_to_fs(out)

    def runtime(self) -> str:
        """What computes."""
        return self._segmenter.runtime

    def segment(self, name: str) -> str | None:
        """Write the mask of an image; the reason if it cannot be segmented."""
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / Path(name).name
            self._images.get_file(f"{self._images_root}/{name}", str(image))
            job = Job(image, Path(folder) / "mask" / image.stem)
            try:
                mask = predict_file(self._segmenter, job, Options())
            except ValueError as error:
                return str(error).removeprefix(f"{image}: ")
            self._publish(mask, f"{self._out_root}/{Path(name).with_name(mask.name).as_posix()}")
        return None

    def _publish(self, mask: Path, target: str) -> None:
        if isinstance(self._out, LocalFileSystem):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self._out.put_file(str(mask), f"{target}.part")
            Path(f"{target}.part").replace(target)
        else:
            self._out.put_file(str(mask), target)  # an object appears when all of it has arrived


def find_images(images: str, out: str) -> tuple[list[str], int]:
    """Names of the images whose masks are missing, and the number of all.

    Raises:
        ValueError: If there are no images, the masks would lie among them, or two masks would have one name.
    """
    if f"{out}/".startswith(f"{images}/"):
        raise ValueError(f"{out} lies in {images}, where masks would be taken for images; give another place for them")
    names = [name for name in find_files(images) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        raise ValueError(f"{images} has no images ({', '.join(IMAGE_SUFFIXES)}); give a folder or a bucket with some")
    stem, count = Counter(map(remove_suffix, names)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images are called {stem}, and their masks would be too; rename all but one")
    done = {remove_suffix(name) for name in find_files(out) if not name.endswith(".part")}
    return [name for name in names if remove_suffix(name) not in done], len(names)


def find_files(address: str) -> list[str]:
    """Names of all files below an address, such as "subfolder/name.png"."""
    files, root = fsspec.core.url_to_fs(address)
    return sorted(Path(file).relative_to(root).as_posix() for file in files.find(root))


def remove_suffix(name: str) -> str:
    """The name without its last suffix."""
    return Path(name).with_suffix("").as_posix()


def segment_all(
    names: Sequence[str], processes: list["ray.actor.ActorHandle"], start: Callable[[], "ray.actor.ActorHandle"]
) -> dict[str, str]:
    """Give each process an image, and the next one when it is done.

    Args:
        names: Of the images.
        processes: Those that are there.
        start: Starts one in place of one that was lost.

    Returns:
        Reason by image that could not be segmented.
    """
    waiting, idle, at_work = deque(names), deque(processes), {}
    attempts, failed = Counter[str](), dict[str, str]()
    while waiting or at_work:
        while waiting and idle:
            process, name = idle.popleft(), waiting.popleft()
            at_work[process.segment.remote(name)] = process, name
        [result], _ = ray.wait(list(at_work))
        process, name = at_work.pop(result)
        try:
            if reason := ray.get(result):
                failed[name] = reason
        except ray.exceptions.RayError as error:
            attempts[name] += 1
            if attempts[name] < ATTEMPTS:
                waiting.append(name)
            else:
                failed[name] = f"{ATTEMPTS} attempts failed ({last_line(error)}); look at the machines and the bucket"
            if isinstance(error, ray.exceptions.RayActorError):
                process = start()
        idle.append(process)
    return failed


def last_line(error: Exception) -> str:
    """What went wrong, without the traceback that Ray puts before it."""
    return str(error).strip().splitlines()[-1]


def read_command() -> argparse.Namespace:
    """The command line, with whole addresses: other machines do not know the folder that this one is in."""
    command = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("run", "images", "out"):
        command.add_argument(name, help="a folder, or an address such as s3://bucket/folder")
    command.add_argument("--cores", type=float, default=4, help="of each process, at most those of a machine (4)")
    command.add_argument("--gpus", type=float, default=0, help="of each process; 0.5 puts two on one GPU (0)")
    wanted = command.parse_args()
    for name in ("run", "images", "out"):
        files, root = fsspec.core.url_to_fs(getattr(wanted, name))
        setattr(wanted, name, files.unstrip_protocol(root.rstrip("/")))
    return wanted


def main() -> None:
    """Segment the images whose masks are missing."""
    wanted = read_command()
    try:
        names, total = find_images(wanted.images, wanted.out)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"{len(names)} of {total} images have no mask yet")
    if not names:
        return
    ray.init(log_to_driver=False)
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    cores = min(wanted.cores, max(machine.get("CPU", 0) for machine in machines))
    room = sum(int(machine.get("CPU", 0) // cores) for machine in machines)
    if wanted.gpus:
        room = min(room, sum(int(machine.get("GPU", 0) // wanted.gpus) for machine in machines))
    actor = ray.remote(num_cpus=cores, num_gpus=wanted.gpus)(SegmentingProcess)
    start = partial(actor.remote, wanted.run, wanted.images, wanted.out)
    try:
        first = start()
        print(f"{ray.get(first.runtime.remote())}, {room} processes with {cores:g} cores each")
    except ray.exceptions.RayError as error:
        sys.exit(f"Error: {last_line(error)}")
    others = [start() for _ in range(min(room, len(names)) - 1)]
    try:
        failed = segment_all(names, [first, *others], start)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on")
        sys.exit(130)
    print(f"{len(names) - len(failed)} masks in {wanted.out}")
    if failed:
        sys.exit("\n".join(f"{name}: {reason}" for name, reason in sorted(failed.items())))


if __name__ == "__main__":
    main()
