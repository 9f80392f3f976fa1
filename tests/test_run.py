"""Tests of whole runs: limits, resuming, signals, processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from samples import TINY

from segwright.evaluation import Evaluation
from segwright.recipe import Recipe, load_recipe
from segwright.run import train
from segwright.training import gradients, state
from segwright.training.checkpoint import load_checkpoint, save_checkpoint
from segwright.training.logs import read_rows
from segwright.training.loop import DivergedError
from segwright.training.view import RunView

SMALL = ["train.batch_size=4", "transform.crop=[64,64]", "train.validations=2", "train.precision=fp32", "train.log_s=0"]


def recipe(data: Path, *overrides: str) -> Recipe:
    network = [f"network.{key}={value}" for key, value in TINY.items()]
    return load_recipe(None, [*network, *SMALL, *overrides], data=str(data))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["network"]
    return state


def test_a_run_leaves_everything_in_its_folder(rectangles: Path, tmp_path: Path) -> None:
    run = train(recipe(rectangles, "train.steps=4"), tmp_path / "run")
    assert run.is_finished
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {
        "recipe.yaml", "data.json", "environment.json", "log.csv", "validation.csv", "tensorboard", "checkpoint.pt",
        "segmenter", "evaluation-val.npz",
    }  # fmt: skip
    assert [row["step"] for row in read_rows(run.folder / "log.csv")] == [1, 2, 3, 4]
    assert [row["progress"] for row in read_rows(run.folder / "validation.csv")] == [0.5, 1.0]
    resolved = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert resolved["transform"]["flip_horizontal"] is not None
    assert json.loads((run.folder / "data.json").read_text())["statistics"]["fingerprint"]


def test_a_network_learns_bright_rectangles(rectangles: Path, tmp_path: Path) -> None:
    easy = ["transform.scale=[1,1]", "transform.rotation_degrees=0", "train.average=none"]
    run = train(recipe(rectangles, "train.steps=80", "optimizer.lr=0.01", *easy), tmp_path / "run")
    # All background would score 0.44.
    assert run.best_miou > 0.55


def test_minutes_end_a_run_in_time(rectangles: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    run = train(recipe(rectangles, "train.minutes=0.3"), tmp_path / "run")
    assert run.is_finished
    # Eight of the 18 seconds are kept for the report, which this does not write.
    assert 5 < time.monotonic() - started < 18
    assert read_rows(run.folder / "validation.csv")[-1]["progress"] == 1.0


def test_minutes_that_are_over_at_once_are_one_sentence(rectangles: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give more minutes"):
        train(recipe(rectangles, "train.minutes=0.01"), tmp_path / "run")


def test_epochs_are_passes_over_the_training_images(rectangles: Path, tmp_path: Path) -> None:
    run = train(recipe(rectangles, "train.epochs=2", "train.batch_size=3"), tmp_path / "run")
    assert read_rows(run.folder / "log.csv")[-1]["step"] == 4


def test_a_resumed_run_ends_with_the_same_bits(rectangles: Path, tmp_path: Path) -> None:
    straight = recipe(rectangles, "train.steps=8", "train.deterministic=true", "train.checkpoint_s=0")
    train(straight, tmp_path / "straight")
    # The interrupted run stops after the step in which the signal comes, as Ctrl-C would make it.
    log = tmp_path / "cut" / "log.csv"

    def interrupt() -> None:
        while len(read_rows(log)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    cut = train(straight, tmp_path / "cut")
    thread.join()
    assert not cut.is_finished
    resumed = train(load_recipe(tmp_path / "cut" / "recipe.yaml"), tmp_path / "cut", resume=True)
    torch.use_deterministic_algorithms(False)
    assert resumed.is_finished
    expected, got = weights(tmp_path / "straight"), weights(tmp_path / "cut")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    model = Path("segmenter") / "model.safetensors"
    assert (tmp_path / "straight" / model).read_bytes() == (tmp_path / "cut" / model).read_bytes()
    assert [row["step"] for row in read_rows(log)] == list(range(1, 9))


@pytest.mark.slow
def test_a_run_cut_inside_the_mean_of_its_last_quarter_ends_with_the_same_bits(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = recipe(
        rectangles, "train.steps=8", "train.average=swa", "train.deterministic=true", "train.checkpoint_s=0"
    )
    train(straight, tmp_path / "straight")

    def save_and_stop(content: dict[str, Any], path: Path) -> None:
        save_checkpoint(content, path)
        if content["step"] == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(state, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(straight, tmp_path / "cut")
    monkeypatch.undo()
    train(load_recipe(tmp_path / "cut" / "recipe.yaml"), tmp_path / "cut", resume=True)
    torch.use_deterministic_algorithms(False)
    expected, got = (load_checkpoint(tmp_path / name / "checkpoint.pt")["average"] for name in ("straight", "cut"))
    assert expected["num_averaged"] == got["num_averaged"] == 2
    assert all(torch.equal(tensor, got["network"][name]) for name, tensor in expected["network"].items())


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(rectangles: Path, tmp_path: Path) -> None:
    straight = recipe(rectangles, "train.steps=30", "train.deterministic=true", "train.checkpoint_s=0")
    train(straight, tmp_path / "straight")
    torch.use_deterministic_algorithms(False)
    (tmp_path / "recipe.yaml").write_text(straight.to_yaml())
    command = [sys.executable, "-m", "segwright.cli", "train"]
    cut = tmp_path / "cut"
    process = subprocess.Popen([*command, str(tmp_path / "recipe.yaml"), "--out", str(cut)], stdout=subprocess.DEVNULL)
    while len(read_rows(cut / "log.csv")) < 6 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert read_rows(cut / "log.csv")[-1]["step"] < 30
    again = subprocess.run([*command, "--resume", str(cut)], check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    expected, got = weights(tmp_path / "straight"), weights(cut)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_patience_ends_a_run_early(rectangles: Path, tmp_path: Path) -> None:
    hopeless = ["optimizer=sgd", "optimizer.lr=1e-12", "train.steps=40", "train.validations=20", "train.patience=2"]
    run = train(recipe(rectangles, *hopeless, "train.average=none"), tmp_path / "run")
    assert run.is_finished
    assert read_rows(run.folder / "log.csv")[-1]["step"] < 40


def test_a_diverged_run_stops_and_keeps_the_last_good_weights(rectangles: Path, tmp_path: Path) -> None:
    wild = recipe(rectangles, "optimizer=sgd", "optimizer.lr=1e30", "train.clip_norm=0", "train.steps=50")
    with pytest.raises(DivergedError, match=r"optimizer\.lr") as caught:
        train(wild, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_run_is_not_overwritten(rectangles: Path, tmp_path: Path) -> None:
    train(recipe(rectangles, "train.steps=1", "train.validations=1"), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already"):
        train(recipe(rectangles, "train.steps=1"), tmp_path / "run")


def test_changed_data_cannot_be_resumed(rectangles: Path, tmp_path: Path) -> None:
    train(recipe(rectangles, "train.steps=1", "train.validations=1"), tmp_path / "run")
    for kind in ("images", "masks"):
        (rectangles / kind / "train" / "00.png").unlink()
    with pytest.raises(ValueError, match="changed since the run began"):
        train(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", resume=True)


def test_accumulated_batches_take_one_step(rectangles: Path, tmp_path: Path) -> None:
    run = train(recipe(rectangles, "train.epochs=4", "train.batch_size=3", "train.accumulate=2"), tmp_path / "run")
    assert read_rows(run.folder / "log.csv")[-1]["step"] == 4


def test_data_without_validation_images_still_makes_a_segmenter(rectangles: Path, tmp_path: Path) -> None:
    for number in range(1, 9):
        split = "train" if number < 6 else "val"
        for kind in ("images", "masks"):
            (rectangles / kind / split / f"{number:02d}.png").unlink()
    run = train(recipe(rectangles, "train.steps=2", "train.batch_size=2"), tmp_path / "run")
    assert (run.folder / "segmenter" / "model.safetensors").is_file()
    assert run.best_miou == -1


def test_a_gpu_that_is_absent_is_one_sentence(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no GPU"):
        train(recipe(rectangles, "train.device=cuda", "train.steps=1"), tmp_path / "run")


def test_a_stage_without_gradient_is_named_while_training_goes_on(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(RunView, "warn", lambda view, sentence: told.append(sentence))
    monkeypatch.setattr(gradients, "VANISHED_ROWS", 2)
    monkeypatch.setattr(gradients, "VANISHED_BELOW", 1e9)  # everything counts as vanished
    train(recipe(rectangles, "train.steps=40", "train.log_s=0.01"), tmp_path / "run")
    assert any("hardly any gradient reaches" in sentence for sentence in told)


def test_a_resumed_run_keeps_the_recipe_that_it_began_with(rectangles: Path, tmp_path: Path) -> None:
    train(recipe(rectangles, "train.steps=2"), tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    train(recipe(rectangles, "train.steps=6", "transform.crop=[32,32]"), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
    assert read_rows(tmp_path / "run" / "log.csv")[-1]["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["segwright", "torchrun", "torchrun, spread"])
def test_two_processes_train_and_score_as_one(starter: str, rectangles: Path, tmp_path: Path) -> None:
    """Every loss of two processes with half the batch each equals that of one process with all of it."""
    # Rounding must not grow: Adam's first steps are the signs of the gradients, whatever their size, and DDRNet's
    # pyramid divides by the deviation of a handful of values.
    narrow = "network.decoder_channels=[32,32,16,16,8]"
    calm = ["network=unet", "network.encoder=test_resnet", narrow, "optimizer=sgd", "optimizer.lr=0.01"]
    size = ["train.batch_size=6", "transform.crop=[160,160]"]
    one = load_recipe(None, [*calm, *SMALL, *size, "train.steps=6"], data=str(rectangles))
    (tmp_path / "recipe.yaml").write_text(one.to_yaml())
    train(one, tmp_path / "one")
    command = ["-m", "segwright.cli", "train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
    if starter == "segwright":
        command = [*command, "--devices", "2"]
    else:
        command += ["train.shard=true"] if starter.endswith("spread") else []
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    done = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Segmenter") == 1
    runs = [tmp_path / name for name in ("one", "two")]
    losses = [[row["loss"] for row in read_rows(run / "log.csv")] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    scores = [[row["miou"] for row in read_rows(run / "validation.csv")] for run in runs]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    first, second = (Evaluation.load(run / "evaluation-val.npz") for run in runs)
    assert first.names == second.names
    np.testing.assert_array_equal(first.confusions.sum(axis=2), second.confusions.sum(axis=2))


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_its_weights_spread_over_two(rectangles: Path, tmp_path: Path) -> None:
    calm = ["network=unet", "network.encoder=test_resnet", "network.decoder_channels=[32,32,16,16,8]", "optimizer=sgd"]
    begun = load_recipe(
        None,
        [*calm, *SMALL, "optimizer.lr=0.01", "train.batch_size=6", "transform.crop=[160,160]", "train.steps=3"],
        data=str(rectangles),
    )
    train(begun, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name, shard in (("one", False), ("two", True)):
        file = tmp_path / name / "recipe.yaml"
        file.write_text(load_recipe(file).with_values({"train.steps": 6, "train.shard": shard}).to_yaml())
    train(begun, tmp_path / "one", resume=True)
    with pytest.raises(ValueError, match="torchrun"):
        train(begun, tmp_path / "two", resume=True)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "segwright.cli", "train"]
    done = subprocess.run(
        [sys.executable, *start, "--resume", str(tmp_path / "two")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    losses = [[row["loss"] for row in read_rows(tmp_path / name / "log.csv")] for name in ("one", "two")]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("one", "two")]
    for part in ("network", "average"):
        one, two = (state[part].get("network", state[part]) for state in states)
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-3)
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for index, kept in moments[0].items():
        torch.testing.assert_close(kept["momentum_buffer"], moments[1][index]["momentum_buffer"], atol=1e-2, rtol=1e-2)


@pytest.mark.slow
def test_a_mistake_of_a_group_is_said_once(rectangles: Path, tmp_path: Path) -> None:
    command = ["-m", "segwright.cli", "train", str(rectangles), "train.batch_size=3", "--steps", "1"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, *command, "--out", str(tmp_path / "run")], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert done.stderr.count("Error: train.batch_size is 3") == 1
