"""Weights & Biases and MLflow: the rows of a run's log beside those of other runs."""

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

from segwright.files import write_whole

PROJECT = "segwright"
"""Project of W&B and experiment of MLflow, where the variables of those tools (WANDB_PROJECT, MLFLOW_…) name none."""

IDENTITY = "tracker.json"
"""File of a run folder with the name that each tracker gave the run, under which a resumed run goes on."""

START_S = 20.0
"""Longest wait for W&B at the start; its own 90 s are much of a run of a few minutes."""


class _Service(Protocol):
    identity: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def finish(self, *, is_failed: bool) -> None: ...


class Tracker:
    """Sends the recipe and the rows of a run to Weights & Biases or MLflow, and closes the run there at its end.

    Whatever fails there is told once, and the run goes on without: `log.csv` has every row, and a resumed run tries
    the tracker again. Where and how rows are stored is for the tracker's own variables to say, such as WANDB_MODE
    (`offline` needs no network), WANDB_PROJECT, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.

    Steps that a killed run took after its checkpoint are there twice once it was resumed.

    Args:
        name: "wandb" or "mlflow".
        folder: Folder of the run.
        recipe: The recipe as nested plain values.

    Raises:
        ValueError: If the tracker's package is not installed.
    """

    def __init__(self, name: str, folder: Path, recipe: Mapping[str, Any]) -> None:
        package = import_tracker(name)
        self._name = name
        self._service: _Service | None = None
        file = folder / IDENTITY
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        with self._tell_failure():
            self._service = _SERVICES[name](package, folder, recipe, known.get(name))
        if self._service:
            write_whole(file, json.dumps(known | {name: self._service.identity}).encode())

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._service:
            with self._tell_failure():
                self._service.finish(is_failed=kind is not None)

    def step(self, row: Mapping[str, float]) -> None:
        """Send what a step gave."""
        self._send("log", row)

    def validation(self, row: Mapping[str, float]) -> None:
        """Send what a validation gave."""
        self._send("validation", row)

    def _send(self, name: str, row: Mapping[str, float]) -> None:
        if self._service:
            values = {f"{name}/{key}": value for key, value in row.items() if key != "step"}
            with self._tell_failure():
                self._service.log(values, int(row["step"]))

    @contextmanager
    def _tell_failure(self) -> Iterator[None]:
        try:
            yield
        # These packages do not promise which errors they raise, and none of them may end hours of training.
        except Exception as error:
            self._service = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logging.getLogger(__name__).warning(
                "%s failed (%s); the run goes on without it, and log.csv keeps every row", self._name, reason
            )


class _Wandb:
    def __init__(self, wandb: ModuleType, folder: Path, recipe: Mapping[str, Any], identity: str | None) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=identity,
            resume="allow" if identity else None,
            dir=str(folder.resolve()),
            # Nested: W&B joins the keys of a tree by dots itself, and takes no dots inside of them.
            config=dict(recipe),
            # What it captures of the terminal would be every frame of the live view.
            settings=wandb.Settings(console="off", init_timeout=START_S),
        )
        # An axis of ours: W&B's own steps cannot go back, as those of a resumed run do.
        for name in ("log", "validation"):
            self._run.define_metric(f"{name}/*", step_metric="step")
        self.identity: str = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def finish(self, *, is_failed: bool) -> None:
        self._run.finish(exit_code=int(is_failed))


class _MLflow:
    def __init__(self, mlflow: ModuleType, folder: Path, recipe: Mapping[str, Any], identity: str | None) -> None:
        # Its own patience with a server that is away is four minutes for every call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._mlflow = mlflow
        self._sent: Any = None
        is_named = not os.environ.keys().isdisjoint({"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"})
        if identity is None and not is_named:
            mlflow.set_experiment(PROJECT)
        # Nested, so that a run which the caller has open does not forbid this one.
        run = mlflow.start_run(run_id=identity, run_name=folder.resolve().name, nested=True)
        self.identity: str = run.info.run_id
        if identity is None:
            mlflow.log_params(flatten(recipe))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._wait()
        # Sent by a thread of MLflow's, so that training does not wait for the server.
        self._sent = self._mlflow.log_metrics(dict(values), step=step, synchronous=False)

    def finish(self, *, is_failed: bool) -> None:
        try:
            self._wait()
        finally:
            self._mlflow.end_run("FAILED" if is_failed else "FINISHED")

    def _wait(self) -> None:
        """Until the row before has arrived; raises what went wrong with it."""
        if self._sent is not None:
            self._sent.wait()


_SERVICES: dict[str, Callable[[ModuleType, Path, Mapping[str, Any], str | None], _Service]] = {
    "wandb": _Wandb,
    "mlflow": _MLflow,
}


def import_tracker(name: str) -> ModuleType:
    """The package of a tracker.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"train.tracker is {name}, but its package cannot be imported ({error}); run pip install {name}, or set "
            "train.tracker=none"
        ) from None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys, as overrides name them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
