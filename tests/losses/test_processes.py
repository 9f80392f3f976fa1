"""Two processes with a part of the batch each equal one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import segwright
from segwright.losses.border_cross_entropy import BorderCrossEntropy
from segwright.losses.boundary import Boundary
from segwright.losses.constrained_focal import ConstrainedFocal
from segwright.losses.cross_entropy import CrossEntropy
from segwright.losses.dice import Dice
from segwright.losses.focal import Focal
from segwright.losses.focal_dice import FocalDice
from segwright.losses.generalized_dice import GeneralizedDice
from segwright.losses.iou import IoU
from segwright.losses.ohem_cross_entropy import OhemCrossEntropy
from segwright.losses.soft_boundary import SoftBoundary
from segwright.losses.tversky import Tversky

LOSSES = {
    "cross_entropy": CrossEntropy(),
    "weighted": CrossEntropy("median_frequency", 0.1, class_shares=[0.5, 0.3, 0.2]),
    "dice": Dice(),
    "dice_without_background": Dice(include_background=False),
    "dice_of_images": Dice(per_image=True, squared=True),
    "focal": Focal(),
    "focal_weighted": Focal(0.5, "median_frequency", class_shares=[0.5, 0.3, 0.2]),
    "focal_dice": FocalDice(),
    "generalized_dice": GeneralizedDice(),
    "iou": IoU(),
    "tversky": Tversky(gamma=4 / 3),
    # Where the threshold alone decides: which pixels are the hardest is told within a process.
    "ohem_cross_entropy": OhemCrossEntropy(0.5, 0.0, "median_frequency", class_shares=[0.5, 0.3, 0.2]),
    "constrained_focal": lambda logits, mask: ConstrainedFocal(border_px=2)(logits[:, :2], mask.where(mask != 2, 1)),
    "boundary": Boundary(start=1.0),
    "border_cross_entropy": BorderCrossEntropy(10.0, 1.0, "median_frequency", class_shares=[0.5, 0.3, 0.2]),
    "soft_boundary": SoftBoundary(0.75, "median_frequency", class_shares=[0.5, 0.3, 0.2]),
}


def batch():
    torch.manual_seed(0)
    features = torch.randn(4, 2, 6, 7)
    mask = torch.randint(0, 3, (4, 6, 7))
    mask[0] = 255  # the first process has far fewer valid pixels than the second
    mask[1][mask[1] == 2] = 1  # and one class less
    return features, mask


def run(features, mask):
    """Loss and gradient of the weight of a linear network, for each loss."""
    results = {}
    for name, loss in LOSSES.items():
        weight = torch.linspace(-1, 1, 6).reshape(3, 2).requires_grad_()
        value = loss(torch.einsum("kc,bchw->bkhw", weight, features), mask)
        value.backward()
        results[name] = value.detach(), weight.grad
    return results


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    torch.save(run(*(tensor[part] for tensor in batch())), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    root = Path(segwright.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    processes = [subprocess.Popen([sys.executable, __file__, str(i), tmp_path], env=environment) for i in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    for name, (loss, gradient) in run(*batch()).items():
        # DistributedDataParallel averages gradients; the log averages losses.
        torch.testing.assert_close((first[name][0] + second[name][0]) / 2, loss)
        torch.testing.assert_close((first[name][1] + second[name][1]) / 2, gradient)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
