import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

import segwright
from segwright.layers.batch_norm import SyncedBatchNorm2d, synchronize_batch_norm

PARTS = (slice(0, 1), slice(1, 4))  # of unequal size: statistics are weighted by pixels, not by process


def batch():
    torch.manual_seed(0)
    image = 3 * torch.randn(4, 3, 5, 6) + torch.tensor([0.0, 50.0, -7.0])[:, None, None]
    image[0] += 2  # the processes see different distributions
    return image


def run(norm, image, target):
    """Outputs, gradients of the input, of the parameters, and running statistics after one step."""
    image = image.clone().requires_grad_()
    output = norm(image)
    (output * target).sum().backward()
    return {
        "output": output.detach(),
        "image": image.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        **{name: value.clone() for name, value in norm.named_buffers()},
    }


def norm(momentum=0.1):
    torch.manual_seed(1)
    module = nn.BatchNorm2d(3, momentum=momentum)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    return module


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    target = torch.linspace(-1, 1, 360).reshape(4, 3, 5, 6).sin()
    part = PARTS[rank]
    results = [run(synchronize_batch_norm(norm(m)), batch()[part], target[part]) for m in (0.1, None)]
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    root = Path(segwright.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    processes = [subprocess.Popen([sys.executable, __file__, str(i), tmp_path], env=environment) for i in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    results = [torch.load(tmp_path / f"{i}.pt") for i in range(2)]
    target = torch.linspace(-1, 1, 360).reshape(4, 3, 5, 6).sin()
    for momentum, first, second in zip((0.1, None), *results, strict=True):
        for name, expected in run(norm(momentum), batch(), target).items():
            if name in ("output", "image"):
                actual = torch.cat([first[name], second[name]])
            elif name in ("weight", "bias"):
                actual = first[name] + second[name]
            else:
                actual = first[name]
                assert torch.equal(actual, second[name])
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_one_process_is_the_norm_of_torch():
    target = torch.linspace(-1, 1, 360).reshape(4, 3, 5, 6).sin()
    expected = run(norm(), batch(), target)
    for name, actual in run(synchronize_batch_norm(norm()), batch(), target).items():
        assert torch.equal(actual, expected[name])


def test_the_state_and_its_names_stay():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(norm(), nn.ReLU()))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = dict(network.named_parameters())
    assert synchronize_batch_norm(network) is network
    assert isinstance(network[1][0], SyncedBatchNorm2d)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value is parameters[name] for name, value in network.named_parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_an_activation_inside_a_norm_of_timm_stays(mode):
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet").train(mode)
    image = torch.randn(2, 3, 32, 32)
    names = list(network.state_dict())
    state = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(image)
    network.load_state_dict(state)
    synchronize_batch_norm(network)
    assert list(network.state_dict()) == names
    assert torch.equal(network(image), expected)
    assert not [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) and type(module) is not SyncedBatchNorm2d
    ]


def test_an_unknown_kind_is_refused():
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="Other cannot run over several processes"):
        synchronize_batch_norm(nn.Sequential(Other(3)))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
