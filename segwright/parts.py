"""Parts of a recipe by name: the file name finds the constructor, its signature is the schema of its arguments."""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

FOLDERS = {
    "network": "segwright.networks",
    "loss": "segwright.losses",
    "metric": "segwright.metrics",
    "transform": "segwright.transforms",
    "method": "segwright.methods",
}
"""Kinds whose parts are files with a `build` of their own."""

MODULES = {"optimizer": "segwright.training.optimizers", "schedule": "segwright.training.schedules"}
"""Kinds whose parts are the public functions of one module."""

FROM_DATA = frozenset({"in_channels", "num_classes", "ignore_label", "class_shares", "network", "losses"})
"""Arguments that the data set or the caller supplies; a recipe cannot say them."""


def list_parts(kind: str) -> list[str]:
    """Names of the parts of a kind, sorted."""
    if kind in FOLDERS:
        package = importlib.import_module(FOLDERS[kind])
        return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")
    module = importlib.import_module(MODULES[kind])
    functions = inspect.getmembers(module, inspect.isfunction)
    return sorted(name for name, function in functions if function.__module__ == module.__name__ and name[0] != "_")


def list_variants(kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Part and arguments of every published variant of a kind, by the variant's name as a recipe says it."""
    found = {}
    for part in list_parts(kind):
        module = importlib.import_module(f"{FOLDERS[kind]}.{part}")
        for title, arguments in getattr(module, "VARIANTS", {}).items():
            found[variant_name(title)] = (part, dict(arguments))
    return found


def variant_name(title: str) -> str:
    """A variant's name as a recipe says it: `fc_densenet103` for FC-DenseNet103."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def expand(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a part, with a variant's name replaced by its part and arguments; given arguments win.

    A name that is neither a part nor a variant stays as it is, for `constructor` to refuse.
    """
    name = settings.get("name")
    if not isinstance(name, str) or "." in name or kind not in FOLDERS or name in list_parts(kind):
        return settings
    wanted = variant_name(name)
    if wanted in list_parts(kind):
        return settings | {"name": wanted}
    part, arguments = list_variants(kind).get(wanted, (name, {}))
    return arguments | settings | {"name": part}


def constructor(kind: str, name: str) -> Callable[..., Any]:
    """The constructor of a part: of ours by its name, of outside code by the dotted path of a module with `build`.

    Raises:
        ValueError: If no part has this name; the message names the nearest.
    """
    found: Callable[..., Any]
    if "." in name:
        found = _outside(kind, name)
    elif name not in list_parts(kind):
        known = {*list_parts(kind), *(list_variants(kind) if kind in FOLDERS else ())}
        raise ValueError(f"{kind} '{name}' is not known; {nearest(name, known)}")
    elif kind in FOLDERS:
        found = importlib.import_module(f"{FOLDERS[kind]}.{name}").build
    else:
        found = getattr(importlib.import_module(MODULES[kind]), name)
    return found


def _outside(kind: str, path: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{kind} '{path}' names the module {path}, which cannot be imported ({error}); check the path"
        ) from None
    if not hasattr(module, "build"):
        raise ValueError(f"{kind} '{path}' names a module without `build`; set build = YourClass in it")
    found: Callable[..., Any] = module.build
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest known one, or all of them when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"


@cache
def arguments_model(kind: str, name: str) -> type[BaseModel]:
    """A pydantic model of the arguments that a recipe may give to a part, made from the constructor's signature."""
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(constructor(kind, name)).parameters.values():
        if parameter.name in FROM_DATA or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (parameter.annotation, default)
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    return create_model(f"{kind}_{name.replace('.', '_')}", __config__=config, **fields)


def check_arguments(kind: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a part, defaults filled in.

    Raises:
        ValueError: If a key is unknown or a value does not fit; one sentence with the nearest right key.
    """
    model = arguments_model(kind, name)
    try:
        return model(**arguments).model_dump()
    except ValidationError as error:
        raise ValueError(say_first_error(error, f"{kind}.", set(model.model_fields))) from None


def say_first_error(error: ValidationError, prefix: str, known: set[str]) -> str:
    """One sentence for the first thing that is wrong in a section of a recipe."""
    first = error.errors(include_url=False)[0]
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"recipe key '{key}' is not known; {nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"recipe key '{key}' is missing; it has no default"
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return reason
    return f"recipe key '{key}' is {first['input']!r}, but {reason[0].lower()}{reason[1:]}"


def build(kind: str, name: str, arguments: dict[str, Any], **from_data: Any) -> Any:  # noqa: ANN401 - any part
    """Make a part from its recipe arguments and from those of `from_data` that its constructor asks for."""
    make = constructor(kind, name)
    wanted = inspect.signature(make).parameters
    return make(**{key: value for key, value in from_data.items() if key in wanted}, **arguments)
