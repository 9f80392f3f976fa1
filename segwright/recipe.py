"""A recipe: everything that decides a run, typed once and written into the run's folder."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segwright import parts

_LIMITS = ("train.steps", "train.epochs", "train.minutes")
_NAMED = ("network", "method", "transform", "optimizer", "schedule")

AUTO = "auto"
"""Name of a network that planning is to choose."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainSection(_Section):
    """How a run is limited and carried out; exactly one of steps, epochs and minutes limits it."""

    steps: int | None = Field(None, gt=0, description="optimizer steps")
    epochs: float | None = Field(None, gt=0, description="passes over the training images")
    minutes: float | None = Field(
        None, gt=0, description="wall time of the whole command, evaluation and report included"
    )
    batch_size: int | None = Field(None, gt=0, description="images a batch over all devices; none lets the data decide")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="balanced shows images of rare classes more often"
    )
    rare_below: float = Field(0.5, gt=0, le=1, description="balanced: classes that fewer images show are rare")
    accumulate: int = Field(1, gt=0, description="batches whose gradients make one step")
    clip_norm: float = Field(5.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    average: Literal["ema", "swa", "none"] = Field(
        "ema", description="what is scored and kept: smoothed weights, the mean of the last quarter, or the weights"
    )
    validations: int = Field(10, gt=0, description="validations a run, evenly over its progress")
    patience: int | None = Field(None, gt=0, description="stop after so many validations without a better score")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    compile: bool = Field(False, description="compile the training step: minutes before the first one, faster then")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    devices: int = Field(1, gt=0, description="processes that train together, one a GPU")
    shard: bool = Field(
        False, description="spread weights and optimizer state over the processes of torchrun or SLURM (FSDP)"
    )
    deterministic: bool = Field(False, description="the same weights to the last bit on the same machine; slower")
    folds: int | None = Field(None, gt=1, description="parts that take turns as validation images")
    fold: int | None = Field(None, gt=0, description="the part that this run holds out, from 1")
    seed: int = Field(0, ge=0, description="seed of weights, order of images and their random changes")
    checkpoint_s: float = Field(60.0, ge=0, description="seconds between checkpoints")
    log_s: float = Field(1.0, ge=0, description="seconds between rows of the log; 0 logs every step")
    threads: int = Field(2, gt=0, description="threads that prepare images")
    tracker: Literal["none", "wandb", "mlflow"] = Field("none", description="where the log goes besides the folder")

    @property
    def held_out(self) -> tuple[int, int] | None:
        """Part that is held out and number of parts, if the run is one of a cross-validation."""
        return None if self.fold is None or self.folds is None else (self.fold, self.folds)

    @model_validator(mode="after")
    def _fold_of_folds(self) -> Self:
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"train.fold is {self.fold}, but train.folds is {self.folds}; give a fold from 1 to folds")
        return self

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"train.{' and train.'.join(given)} both limit the run; give only one of them")
        return self


class CleanUpSection(_Section):
    """What is tidied up in every predicted mask; see `inference.cleanup` for the exact rules."""

    min_pixels: int = Field(0, ge=0, description="smaller components take the class around them; 0 keeps all")
    fill_holes: bool = Field(False, description="class 0 inside of another class becomes that class")
    largest_only: bool = Field(False, description="of each class but 0 only the largest component stays")


class Recipe(_Section):
    """A whole recipe. `None` values are filled in from the data before training; the run's folder holds the result."""

    data: str = Field(description="folder with images and masks")
    network: dict[str, Any] = Field({"name": AUTO}, description="name and arguments; auto lets the data decide")
    loss: dict[str, dict[str, Any]] = Field({}, description="losses by name, with their weight; none: the data decide")
    method: dict[str, Any] = Field({"name": "supervised"}, description="how the network is supervised")
    transform: dict[str, Any] = Field({"name": "image"}, description="random changes of the training images")
    optimizer: dict[str, Any] = Field({"name": "adamw"}, description="name and arguments of an optimizer")
    schedule: dict[str, Any] = Field({"name": "poly"}, description="learning rate over the run")
    train: TrainSection = TrainSection()
    cleanup: CleanUpSection = CleanUpSection()

    @field_validator("data", mode="before")
    @classmethod
    def _path_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A name alone is a part with its defaults; arguments alone are of the default part; `a+b` are two losses."""
        values = dict(values)
        for key in _NAMED:
            if isinstance(values.get(key), str):
                values[key] = {"name": values[key]}
            if isinstance(values.get(key), dict):
                values[key] = parts.expand(key, values[key])
                values[key] = cls.model_fields[key].default | values[key]
        if isinstance(values.get("loss"), str):
            values["loss"] = {name.strip(): {} for name in values["loss"].split("+")}
        return values

    @model_validator(mode="after")
    def _complete_parts(self) -> Self:
        for kind in _NAMED:
            part = dict(getattr(self, kind))
            name = part.pop("name", None)
            if not isinstance(name, str):
                raise ValueError(f"recipe key '{kind}.name' is missing; known are: {', '.join(parts.list_parts(kind))}")
            if (kind, name) == ("network", AUTO):
                if part:
                    raise ValueError(f"recipe key 'network.{next(iter(part))}' came without network.name; name it too")
                continue
            getattr(self, kind).update({"name": name} | parts.check_arguments(kind, name, part))
        for name, arguments in self.loss.items():
            given = dict(arguments or {})
            weight = _positive(given.pop("weight", 1.0), f"loss.{name}.weight")
            self.loss[name] = {"weight": weight} | parts.check_arguments("loss", name, given)
        return self

    def with_values(self, values: dict[str, Any]) -> "Recipe":
        """A copy with some values changed, keyed by their dotted path, and checked again."""
        settings = self.model_dump()
        for key, value in values.items():
            _set(settings, key, value)
        return make_recipe(settings)

    def to_yaml(self) -> str:
        """The recipe as flat YAML, which `load_recipe` reads back."""
        return yaml.safe_dump(_plain(self.model_dump()), sort_keys=False, allow_unicode=True)


def _positive(value: object, key: str) -> float:
    try:
        number = float(str(value))  # YAML takes 1e-1 for a word
    except ValueError:
        number = math.nan
    if not number > 0:
        raise ValueError(f"recipe key '{key}' is {value!r}, but a number above 0 is needed")
    return number


def make_recipe(settings: dict[str, Any]) -> Recipe:
    """Check settings and fill in defaults.

    Raises:
        ValueError: If a key is unknown or a value does not fit; one sentence that names the nearest right key.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"]
        known = TrainSection.model_fields if len(place) > 1 and place[0] == "train" else Recipe.model_fields
        raise ValueError(parts.say_first_error(error, "", set(known))) from None


def load_recipe(path: Path | None, overrides: Sequence[str] = (), **values: Any) -> Recipe:  # noqa: ANN401 - any value
    """Read a recipe file and change it by overrides.

    Args:
        path: A YAML file; None starts from the defaults.
        overrides: `key.sub=value` with YAML values, such as `optimizer.lr=0.01`, `network=unet`.
        values: Values of top-level keys that win over the file, such as `data`.

    Raises:
        ValueError: If the file cannot be read, or an override or a value is wrong.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"recipe {path} cannot be read ({reason}); give a YAML file") from None
        if not isinstance(settings, dict):
            raise ValueError(f"recipe {path} holds no keys; a recipe starts with lines such as 'network: unet'")
    settings |= copy.deepcopy(values)
    may_drop = True
    for override in overrides:
        key, value = read_override(override)
        if key in _LIMITS and may_drop:
            _drop_limits(settings)
            may_drop = False  # two limits among the overrides themselves are still a mistake
        _set(settings, key, value)
    return make_recipe(settings)


def read_override(override: str) -> tuple[str, Any]:
    """Key and value of `key.sub=value`.

    Raises:
        ValueError: If there is no value, or one that is not YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"override '{override}' has no value; write it as key=value, such as optimizer.lr=0.01")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"override '{override}' has a value that is not YAML; quote it") from None


def read_metrics(names: str, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arguments of metrics by name, defaults filled in.

    Args:
        names: Names, separated by commas.
        overrides: `metric.argument=value` with YAML values; a metric that is not among the names is added.

    Raises:
        ValueError: If a metric or an argument is not known.
    """
    settings: dict[str, Any] = {name.strip(): {} for name in names.split(",") if name.strip()}
    for override in overrides:
        key, value = read_override(override)
        if "." not in key:
            raise ValueError(f"'{override}' names no argument of a metric; write it as surface.tolerance=3")
        _set(settings, key, value)
    return {name: parts.check_arguments("metric", name, given) for name, given in settings.items()}


def _drop_limits(settings: dict[str, Any]) -> None:
    """Forget the limits that came from a file or a preset: a limit on the command line takes their place."""
    if isinstance(settings.get("train"), dict):
        settings["train"] = {key: value for key, value in settings["train"].items() if f"train.{key}" not in _LIMITS}


def _set(settings: dict[str, Any], key: str, value: object) -> None:
    *path, last = key.split(".")
    place = settings
    for part in path:
        inside = place.get(part)
        if isinstance(inside, str):
            inside = {"name": inside} if part in _NAMED else {name.strip(): {} for name in inside.split("+")}
        place[part] = inside = {} if inside is None else inside
        if not isinstance(inside, dict):
            raise ValueError(f"recipe key '{key}' is inside '{part}', which is the value {inside!r} and holds no keys")
        place = inside
    place[last] = value


def _plain(value: object) -> object:
    """Tuples as lists, so that YAML needs no tags."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
