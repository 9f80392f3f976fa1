"""Tests of Weights & Biases and MLflow as trackers, with stand-ins for their packages that record what they get."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from samples import TINY

from segwright.recipe import Recipe, load_recipe
from segwright.run import train
from segwright.training.logs import read_rows
from segwright.training.trackers import Tracker, flatten, import_tracker

NAMES = ["wandb", "mlflow"]
PATIENCE = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
RECIPE = {"data": "x", "optimizer": {"name": "adamw", "lr": 0.01}, "train": {"steps": 4, "minutes": None}}


class Server:
    """What a tracker received, and what it does when it receives a row."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.rows: list[dict[str, float]] = []
        self.axes: dict[str, str] = {}
        self.experiments: list[str] = []
        self.ended: list[Any] = []
        self.on_start: Callable[[], object] = lambda: None
        self.on_row: Callable[[], object] = lambda: None

    def start(self, **arguments: Any) -> str:
        self.on_start()
        self.started.append(arguments)
        return f"run{len(self.started)}"

    def row(self, values: dict[str, float]) -> None:
        self.on_row()
        self.rows.append(values)

    def of(self, kind: str) -> list[dict[str, float]]:
        """Rows of one kind as the CSV files have them."""
        return [
            {"step": row["step"]} | {key.partition("/")[2]: value for key, value in row.items() if key != "step"}
            for row in self.rows
            if any(key.startswith(f"{kind}/") for key in row)
        ]


def stand_in_for_wandb(server: Server) -> ModuleType:
    module: Any = ModuleType("wandb")

    def init(**arguments: Any) -> SimpleNamespace:
        new = server.start(**arguments)
        server.config = arguments["config"]
        return SimpleNamespace(
            id=arguments["id"] or new,
            define_metric=lambda name, step_metric: server.axes.update({name: step_metric}),
            log=server.row,
            finish=lambda exit_code: server.ended.append(exit_code == 0),
        )

    module.init, module.Settings = init, SimpleNamespace
    return module  # type: ignore[no-any-return]


def stand_in_for_mlflow(server: Server) -> ModuleType:
    module: Any = ModuleType("mlflow")

    def start_run(**arguments: Any) -> SimpleNamespace:
        new = server.start(id=arguments["run_id"], name=arguments["run_name"])
        return SimpleNamespace(info=SimpleNamespace(run_id=arguments["run_id"] or new))

    def log_metrics(metrics: dict[str, float], step: int, synchronous: bool) -> SimpleNamespace:
        assert not synchronous
        # As MLflow does: what went wrong comes out of waiting.
        return SimpleNamespace(wait=sent(metrics | {"step": step}))

    def sent(row: dict[str, float]) -> Callable[[], None]:
        try:
            server.row(row)
        except ConnectionError as error:
            failure = error

            def wait() -> None:
                raise failure

            return wait
        return lambda: None

    module.set_experiment = server.experiments.append
    module.start_run, module.log_metrics = start_run, log_metrics
    module.log_params = server.config.update
    module.end_run = lambda status: server.ended.append(status == "FINISHED")
    return module  # type: ignore[no-any-return]


STAND_INS = {"wandb": stand_in_for_wandb, "mlflow": stand_in_for_mlflow}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of the trackers; what a tracker sets is taken back after the test."""
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", *PATIENCE):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


@pytest.fixture
def server(name: str, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setitem(sys.modules, name, STAND_INS[name](server))
    return server


def fail() -> None:
    raise ConnectionError("no route\nto the server")


def row(step: int) -> dict[str, float]:
    return {"step": step, "progress": step / 4, "loss": 1 / step}


def tiny_recipe(data: Path, *overrides: str) -> Recipe:
    settings = [
        *(f"network.{key}={value}" for key, value in TINY.items()), "train.batch_size=4", "transform.crop=[64,64]",
        "train.validations=2", "train.precision=fp32", "train.log_s=0", "train.steps=4",
    ]  # fmt: skip
    return load_recipe(None, [*settings, *overrides], data=str(data))


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_package_is_one_sentence_before_anything_is_done(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf"run pip install {missing}, or set train\.tracker=none") as caught:
        import_tracker(missing)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="pip install"):
        Tracker(missing, tmp_path, RECIPE)
    # The data of the recipe does not exist either, but that is not looked at.
    recipe = load_recipe(None, [f"train.tracker={missing}"], data=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="pip install"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_and_the_recipe_arrive(name: str, server: Server, tmp_path: Path) -> None:
    with Tracker(name, tmp_path, RECIPE) as tracker:
        tracker.step(row(1))
        tracker.validation({"step": 2, "miou": 0.5})
    assert server.rows == [{"step": 1, "log/progress": 0.25, "log/loss": 1.0}, {"step": 2, "validation/miou": 0.5}]
    assert server.started[0]["name"] == tmp_path.name
    assert flatten(server.config) == {
        "data": "x", "optimizer.name": "adamw", "optimizer.lr": 0.01, "train.steps": 4, "train.minutes": None,
    }  # fmt: skip
    assert server.ended == [True]


def test_steps_are_an_axis_that_can_go_back_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", stand_in_for_wandb(server))
    with Tracker("wandb", tmp_path, RECIPE):
        pass
    assert server.axes == {"log/*": "step", "validation/*": "step"}


@pytest.mark.parametrize(("variable", "wandb", "mlflow"), [(False, "segwright", ["segwright"]), (True, "mine", [])])
def test_variables_of_the_trackers_name_the_project(
    variable: bool, wandb: str, mlflow: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("WANDB_PROJECT", "mine")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    servers = {name: Server() for name in NAMES}
    for name, server in servers.items():
        monkeypatch.setitem(sys.modules, name, STAND_INS[name](server))
        with Tracker(name, tmp_path, RECIPE):
            pass
    assert servers["wandb"].started[0]["project"] == wandb
    assert servers["mlflow"].experiments == mlflow  # MLflow reads its variable by itself


def test_mlflow_gives_a_server_that_is_away_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", stand_in_for_mlflow(Server()))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with Tracker("mlflow", tmp_path, RECIPE):
        pass
    assert [os.environ[variable] for variable in PATIENCE] == ["2", "77"]  # what the user set stays


@pytest.mark.slow
def test_a_run_sends_what_its_files_hold(name: str, server: Server, rectangles: Path, tmp_path: Path) -> None:
    train(tiny_recipe(rectangles, f"train.tracker={name}"), tmp_path / "run")
    for kind, file in (("log", "log.csv"), ("validation", "validation.csv")):
        written, received = read_rows(tmp_path / "run" / file), server.of(kind)
        assert [set(entry) for entry in received] == [set(entry) for entry in written]
        for theirs, ours in zip(received, written, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5, nan_ok=True)
    assert flatten(server.config)["train.steps"] == 4
    assert server.ended == [True]


def test_a_resumed_run_goes_on_under_its_name(name: str, server: Server, tmp_path: Path) -> None:
    for _ in range(3):
        with Tracker(name, tmp_path, RECIPE):
            pass
    assert [arguments["id"] for arguments in server.started] == [None, "run1", "run1"]


def test_the_parameters_of_a_resumed_run_are_not_sent_to_mlflow_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in_for_mlflow(server))
    (tmp_path / "tracker.json").write_text('{"mlflow": "run7"}')
    with Tracker("mlflow", tmp_path, RECIPE):
        pass
    assert server.config == {}  # MLflow refuses a parameter whose value changed


def test_each_tracker_has_its_own_name_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, STAND_INS[name](Server()))
        with Tracker(name, tmp_path, RECIPE):
            pass
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"wandb": "run1", "mlflow": "run1"}


def test_a_server_that_is_away_is_told_once_and_not_asked_again(
    name: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.on_start = fail
    with caplog.at_level(logging.WARNING), Tracker(name, tmp_path, RECIPE) as tracker:
        tracker.step(row(1))
        tracker.validation(row(2))
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} failed (no route to the server); the run goes on without it, and log.csv keeps every row"
    ]
    assert server.rows == []
    assert not (tmp_path / "tracker.json").exists()


@pytest.mark.slow
def test_a_server_that_goes_away_does_not_end_the_run(
    name: str, server: Server, rectangles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def lose_the_third() -> None:
        asked.append(len(server.rows))
        if len(asked) >= 3:
            fail()

    server.on_row = lose_the_third
    run = train(tiny_recipe(rectangles, f"train.tracker={name}"), tmp_path / "run")
    assert run.is_finished
    assert len(read_rows(run.folder / "log.csv")) == 4
    assert asked == [0, 1, 2]
    assert len([record for record in caplog.records if "segwright" in record.name]) == 1


@pytest.mark.slow
def test_the_first_interrupt_closes_the_run_after_its_step(
    name: str, server: Server, rectangles: Path, tmp_path: Path
) -> None:
    server.on_row = lambda: os.kill(os.getpid(), signal.SIGINT) if len(server.rows) == 1 else None
    run = train(tiny_recipe(rectangles, f"train.tracker={name}"), tmp_path / "run")
    assert not run.is_finished
    assert server.ended == [True]
    server.on_row = lambda: None
    resumed = train(load_recipe(run.folder / "recipe.yaml"), run.folder, resume=True)
    assert resumed.is_finished
    assert [arguments["id"] for arguments in server.started] == [None, "run1"]
    assert [entry["step"] for entry in server.of("log")] == [1, 2, 3, 4]


def test_a_run_that_breaks_is_closed_as_failed(name: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker(name, tmp_path, RECIPE):
        raise KeyboardInterrupt
    assert server.ended == [False]


@pytest.mark.slow
def test_the_second_interrupt_closes_the_run_too(name: str, server: Server, rectangles: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    server.on_row = interrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(rectangles, f"train.tracker={name}"), tmp_path / "run")
    assert server.ended == [False]
