"""Tests of weights of other libraries; the peers start at random, nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segwright.inference.foreign import import_network, import_segmenter
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.torch import TorchEngine

smp = pytest.importorskip("segmentation_models_pytorch")
segmentation = pytest.importorskip("torchvision.models.segmentation")


def trained(network: nn.Module, in_channels: int) -> nn.Module:
    """A network as after some training: normalization that does something, with statistics that fit the weights."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, in_channels, 128, 128))
    return network.eval()


def logits(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        result = network(image)
    return result["out"] if isinstance(result, dict) else result


def from_smp(kind: str) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, kind)("resnet18", encoder_weights=None, in_channels=4, classes=7)


def from_torchvision(kind: str) -> Callable[[], nn.Module]:
    return lambda: getattr(segmentation, kind)(weights=None, weights_backbone=None, num_classes=7, aux_loss=True)


R18 = {"encoder": "resnet18"}
PEERS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "smp Unet": (from_smp("Unet"), "unet", R18),
    "smp UnetPlusPlus": (from_smp("UnetPlusPlus"), "unetplusplus_encoder", R18),
    "smp DeepLabV3": (from_smp("DeepLabV3"), "deeplabv3_resnet50_smp", R18 | {"multi_grid": [1, 1]}),
    "smp DeepLabV3Plus": (from_smp("DeepLabV3Plus"), "deeplabv3plus_resnet50_smp", R18),
    "smp PSPNet": (from_smp("PSPNet"), "pspnet_50_smp", R18),
    "smp PAN": (from_smp("PAN"), "pan_resnet50_smp", R18),
    "torchvision fcn_resnet50": (from_torchvision("fcn_resnet50"), "fcn_resnet50", {}),
    "torchvision fcn_resnet101": (from_torchvision("fcn_resnet101"), "fcn_resnet101", {}),
    "torchvision deeplabv3_resnet50": (from_torchvision("deeplabv3_resnet50"), "deeplabv3_resnet50_torchvision", {}),
    "torchvision deeplabv3_resnet101": (from_torchvision("deeplabv3_resnet101"), "deeplabv3_resnet101_torchvision", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_weights_of_a_peer_give_the_same_logits(peer: str, tmp_path: Path) -> None:
    make, name, arguments = PEERS[peer]
    torch.manual_seed(0)
    original = trained(make(), 3 if "torchvision" in peer else 4)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    network, _, in_channels, _ = import_network(tmp_path / "weights.pth", name, arguments)
    image = torch.randn(2, in_channels, 128, 192)
    torch.testing.assert_close(logits(network, image), logits(original, image), rtol=0, atol=1e-4)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(from_smp("Unet")().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_single_class_gets_a_background(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = trained(smp.Unet("resnet18", encoder_weights=None, classes=1), 3)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    segmenter = import_segmenter(tmp_path / "weights.pth", "unet", R18, class_names=["nucleus"])
    assert segmenter.classes.names == ("background", "nucleus")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        foreground = segmenter.network(image).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(foreground, original(image).sigmoid(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrap", ["state_dict", "safetensors", "module.", "_orig_mod.module."])
def test_the_usual_wrappings_are_taken_off(weights: Path, tmp_path: Path, wrap: str) -> None:
    state, file = torch.load(weights), tmp_path / "wrapped.pth"
    if wrap == "safetensors":
        file = tmp_path / "wrapped.safetensors"
        save_file({f"module.{key}": value for key, value in state.items()}, file)
    elif wrap.endswith("."):
        torch.save({f"{wrap}{key}": value for key, value in state.items()}, file)
    else:
        torch.save({"state_dict": state, "epoch": 3}, file)
    _, settings, in_channels, num_classes = import_network(file, "unet", {"encoder": "resnet18"})
    assert (settings["name"], in_channels, num_classes) == ("unet", 4, 7)


def test_an_imported_segmenter_predicts_after_saving(weights: Path, tmp_path: Path) -> None:
    names = [f"thing {index}" for index in range(7)]
    import_segmenter(weights, "unet", {"encoder": "resnet18"}, class_names=names).save(tmp_path / "out")
    segmenter = Segmenter.load(tmp_path / "out")
    image = torch.randint(0, 255, (40, 50, 4), dtype=torch.uint8).numpy()
    assert predict_image(TorchEngine(segmenter), image).mask.shape == (40, 50)
    assert segmenter.classes.names == tuple(names)


def test_the_first_key_that_differs_is_named(weights: Path) -> None:
    with pytest.raises(
        ValueError, match=r"differ first in 'encoder\.network\.layer1\.2\.conv1\.weight', which the file"
    ):
        import_network(weights, "unet", {"encoder": "resnet34"})
    with pytest.raises(ValueError, match=r"in 'decoder\.0\.conv1.*is 256 x 768 x 3 x 3 in the file but 64 x 768"):
        import_network(weights, "unet", {"encoder": "resnet18", "decoder_channels": [64, 32, 32, 16, 16]})


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        import_network(tmp_path / "notes.pth", "unet", {})
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no weights by name"):
        import_network(tmp_path / "list.pth", "unet", {})
    with pytest.raises(ValueError, match="cannot be read as weights"):
        import_network(tmp_path / "missing.pth", "unet", {})


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save(nn.ReLU(), tmp_path / "module.pth")  # a pickled object, as old checkpoints are
    with pytest.raises(ValueError, match="cannot be read as weights"):
        import_network(tmp_path / "module.pth", "unet", {})


def test_a_network_without_known_peers_says_which_have_them(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"ddrnet knows no weights of other libraries; those that do are .*unet"):
        import_network(weights, "ddrnet", {})


def test_another_number_of_class_names_is_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"2 class names came, but .* has 7 classes"):
        import_segmenter(weights, "unet", {"encoder": "resnet18"}, class_names=["a", "b"])
