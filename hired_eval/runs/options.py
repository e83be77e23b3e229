"""The options of a run, each declared once with its type, and the method that they name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hired_eval.errors import UserError, first_line
from hired_eval.paths import with_tilde
from hired_eval.typed import (
    Count,
    Natural,
    Positive,
    Proportion,
    Range,
    Seed,
    Share,
    checked_options,
    is_path,
    paths_as_text,
    types_of,
)

if TYPE_CHECKING:
    from hired_eval.dropping import TokenDropper

TWO_AT_LEAST = Range("of at least 2", 2)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The group `model`, as `configs/model/mini.yaml` explains it."""

    name: str
    hub_id: str | None
    path: Path | None
    revision: str | None
    dtype: Literal["float32", "float16", "bfloat16"]
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    quantization: Literal["none", "8bit", "4bit"]
    weights: Literal["pretrained", "pickle", "dummy"]
    feature_layer: int | None
    alpha: Proportion
    prompt: str


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The group `task`, as `hired_eval.lmms.tasks.Benchmark` explains it."""

    name: str
    lmms_task: str
    metric: str
    scale: float
    scoring: Literal["mean", "mme"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The group `data`."""

    source: Literal["auto", "bundled", "hub"]
    path: Path | None


@dataclass(frozen=True, kw_only=True)
class EfficiencyOptions:
    """What measure=efficiency times."""

    width: Count
    height: Count
    text_tokens: Annotated[int, TWO_AT_LEAST]
    new_tokens: Count
    warm_up: Natural
    repeats: Count


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options and groups of `configs/config.yaml`, which explains them; `method` has its own class."""

    model: ModelOptions
    task: TaskOptions
    data: DataOptions
    measure: Literal[
        "accuracy", "generation_attention", "cls_attention", "gallery", "efficiency", "efficiency_stock"
    ]
    budget: Share | None
    limit: Count | None
    batch_size: Count
    share_prefix: bool
    encoding_cache: Path | None
    encoding_cache_gib: Positive
    device: str
    seed: Seed
    on_error: Literal["stop", "record"]
    runs_dir: Path
    rerun: bool
    efficiency: EfficiencyOptions


OTHERS = ("method", "profile")
"""What a config holds beside: the dropping method, and what experiments choose by."""
OF_THE_GROUP = ("_target_", "label")
"""Of the group `method`: its class and its name in tables, which are no options of the class."""
OF_THE_TABLES, NAMED = ("label", "place"), ("task",)
"""What a config says of its name and place in tables, which no run depends on; in which groups."""
GROUPS = {
    "model": ModelOptions,
    "task": TaskOptions,
    "data": DataOptions,
    "efficiency": EfficiencyOptions,
}


def kinds() -> dict[str, Any]:
    """The type of each option by its full name, e.g. 'model.path'; those of methods are in their classes."""
    of_groups = {
        f"{group}.{name}": kind
        for group, declaration in GROUPS.items()
        for name, kind in types_of(declaration).items()
    }
    return {name: kind for name, kind in types_of(RunOptions).items() if name not in GROUPS} | of_groups


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config in which every value has the type of its option; checked twice it stays the same.

    Paths are text with `~` written out, and the prompt is the template itself.

    Raises:
        UserError: an option that is missing or unknown, a value of another type, or no such method.
    """
    from hired_eval.models.configs import prompt_named

    typed = _complete(RunOptions, config, "", OTHERS)
    for group, declaration in GROUPS.items():
        asked = {k: v for k, v in typed[group].items() if k not in OF_THE_TABLES or group not in NAMED}
        typed[group] = _complete(declaration, asked, f"{group}.")
    typed["model"]["prompt"] = prompt_named(typed["model"]["prompt"])
    method = config["method"]
    named = {name: method[name] for name in OF_THE_GROUP if name in method}
    typed["method"] = paths_as_text(named | method_options(method))
    return typed


def _complete(
    declaration: type, options: dict[str, Any], prefix: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options of a declaration, all of them there and of their types.

    Raises:
        UserError: naming the option.
    """
    known = types_of(declaration)
    for name in options.keys() - known.keys() - {*others}:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {prefix}{close[0]}? " if close else ""
        raise UserError(f"there is no option {prefix}{name}; {meant}known: {', '.join(known)}")
    for name in known:
        if name not in options:
            raise UserError(
                f"the config lacks {prefix}{name}; build on a packaged config, as docs/extending.md shows"
            )
    single = {name: value for name, value in options.items() if prefix or name not in GROUPS}
    return {**options, **paths_as_text(checked_options(declaration, single, prefix))}


def method_class(target: str) -> type[TokenDropper]:
    """The class that a method's `_target_` names.

    Raises:
        UserError: its module or the class cannot be found or loaded, or it is no dropping method.
    """
    from hired_eval.dropping import TokenDropper  # torch, which --help does not need

    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, ValueError, SyntaxError, NameError, AttributeError) as error:
        raise UserError(
            f"{target} cannot be found ({first_line(error)}); mend the name, start python -m hired_eval in "
            "the folder of your module, or install it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, TokenDropper)):
        raise UserError(
            f"{target} is not a dropping method: method._target_ names a subclass of TokenDropper"
        )
    return found


def method_options(method: dict[str, Any]) -> dict[str, Any]:
    """The options of a method's config, of the types that its class declares.

    Raises:
        UserError: an option that the method does not have, a value of another type, or see `method_class`.
    """
    target = method_class(method["_target_"])
    options = {name: value for name, value in method.items() if name not in OF_THE_GROUP}
    known = types_of(target)
    for option in options:
        if option not in known:
            raise UserError(f"{target.__name__} has no option {option!r}; its options: {', '.join(known)}")
    return checked_options(target, options)


def method_label(method: dict[str, Any]) -> str:
    """A method's name in tables: its config's `label`, or the name of its class."""
    return str(method.get("label") or method["_target_"].rpartition(".")[2])


def build_dropper(config: dict[str, Any]) -> TokenDropper:
    """The dropping method of a config, with the top-level budget where it is set.

    Raises:
        UserError: an option that the method does not have, or a value out of range.
    """
    method = dict(config["method"])
    if config["budget"] is not None:
        if "budget" not in method:
            name = method["_target_"].rsplit(".", 1)[-1]
            raise UserError(f"{name} has no token budget of its own; leave budget={config['budget']} out")
        method["budget"] = config["budget"]
    target = method_class(method["_target_"])
    try:
        return target(**method_options(method))
    except TypeError as error:  # an option without a default, or an abstract class
        raise UserError(f"{target.__name__} cannot be made: {first_line(error)}") from error


def without_home(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with the user's home folder written as ~ where it begins a path."""
    known = kinds()
    of_method = types_of(method_class(config["method"]["_target_"]))
    known |= {f"method.{name}": kind for name, kind in of_method.items()}
    return _hidden(config, "", known)


def _hidden(options: dict[str, Any], prefix: str, known: dict[str, Any]) -> dict[str, Any]:
    hidden: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            hidden[name] = _hidden(value, f"{prefix}{name}.", known)
        elif isinstance(value, str) and is_path(known.get(f"{prefix}{name}")):
            hidden[name] = with_tilde(value)
        else:
            hidden[name] = value
    return hidden
