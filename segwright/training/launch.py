"""Processes that train together, started by us or by torchrun or SLURM."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.multiprocessing.spawn import ProcessException

from segwright.training.sharding import make_strategy

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Processes that something else started, this one among them.

    Attributes:
        rank: Number of this process.
        size: Number of all of them.
        nodes: Number of machines that they run on, as many on each.
    """

    rank: int
    size: int
    nodes: int


def find_group() -> Group | None:
    """The processes that torchrun or srun started; None if this process is on its own."""
    environment: TorchElasticEnvironment | SLURMEnvironment
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
        size, per_node = environment.world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
        return Group(environment.global_rank(), size, size // per_node) if size > 1 else None
    if SLURMEnvironment.detect():
        environment = SLURMEnvironment()
        size, nodes = environment.world_size(), int(os.environ.get("SLURM_NNODES", "1"))
        return Group(environment.global_rank(), size, nodes) if size > 1 else None
    return None


def make_fabric(
    kind: str, devices: int, group: Group | None, *, is_bf16: bool, deterministic: bool, shard: bool = False
) -> Fabric:
    """Fabric for one process, for several that it starts itself, or for a group that is running already.

    Args:
        kind: "cpu" or "cuda".
        devices: Number of all processes.
        group: From `find_group`.
        is_bf16: Whether networks compute in bfloat16.
        deterministic: Whether only operations with repeatable results are allowed.
        shard: Whether weights and the optimizer's state are spread over the group.
    """
    # Fabric announces the precision by itself, in words that say less than ours.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    name = "auto" if devices == 1 else "ddp_spawn" if group is None else "ddp"
    return Fabric(
        accelerator=kind,
        devices=devices if group is None else devices // group.nodes,
        num_nodes=1 if group is None else group.nodes,
        strategy=make_strategy(devices) if shard else name,
        precision="bf16-mixed" if is_bf16 else "32-true",
    )


def launch(fabric: Fabric, group: Group | None, work: Callable[[Fabric], T]) -> T:
    """Run `work` in all processes; the result of the first one.

    Raises:
        RuntimeError: If a process that was started here failed; the last line of its traceback.
    """
    if fabric.world_size == 1:
        return work(fabric)
    if group is not None:
        fabric.launch()
        return work(fabric)
    # Ctrl-C reaches every process; those that train finish their step, and this one has to wait for them.
    is_main = threading.current_thread() is threading.main_thread()  # Python allows signal handlers there only
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        result: T = fabric.launch(work)
    except ProcessException as error:
        # Its text is the traceback of the process; the last line says what was wrong.
        raise RuntimeError(str(error).strip().splitlines()[-1]) from error
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
    return result


def of_first(kind: str, group: Group, prepare: Callable[[], T]) -> T:
    """What the first process of a group prepares, in all of them.

    Raises:
        RuntimeError: In the others, if it failed in the first one, which raises what was wrong.
    """
    fabric = make_fabric(kind, group.size, group, is_bf16=False, deterministic=False)
    fabric.launch()
    if group.rank > 0:
        nothing: tuple[bool, Any] = (False, None)
        is_ready, prepared = fabric.broadcast(nothing)
        if not is_ready:
            raise RuntimeError("the first process could not prepare the run; its message says why")
        result: T = prepared
        return result
    is_ready, made = False, None
    try:
        made = prepare()
        is_ready = True
    finally:
        fabric.broadcast((is_ready, made))  # the others wait for it, whatever happened
    return made
