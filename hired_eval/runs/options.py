"""The options of a run, each declared once with its type, and the method that they name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hired_eval.errors import UserError, first_line, unknown
from hired_eval.method_configs import ABOUT, BUDGETS, target_of
from hired_eval.paths import write_tilde
from hired_eval.records.goal import MOST_POINTS
from hired_eval.records.record import Benchmark
from hired_eval.records.scores import scorer_for
from hired_eval.typed import (
    Count,
    Natural,
    Proportion,
    Range,
    Seed,
    Share,
    check_options,
    check_value,
    types_of,
)

if TYPE_CHECKING:
    from hired_eval.dropping import TokenDropper

POINTS = Range(f"above 0 and at most {MOST_POINTS}", 0, MOST_POINTS, open=True)
COMPOSED = "Composed"
"""The class of a composition, whose config has a method's config under each name."""
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
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    square: Count | None = None


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The group `method`.

    Attributes:
        target: the method's class.
        label: its name in tables.
        options: those of the class that are given, of the types that it declares.
        parts: of a composition, its methods by name; they have the options.
    """

    target: str
    label: str
    options: dict[str, Any]
    parts: dict[str, MethodOptions] = field(default_factory=dict)

    def takes(self, option: str) -> bool:
        """Whether a top-level budget, or another option of a run that methods have, means something to it."""
        if not self.parts:
            return option in types_of(method_class(self.target))
        if option not in BUDGETS:
            return any(part.takes(option) for part in self.parts.values())
        part = _part_with_budget(self)
        return part is not None and self.parts[part].takes(option)


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """The group `protocol`: paper, every picture on its own grid; or fixed_grid, all on one."""

    name: Literal["paper", "fixed_grid"]

    @property
    def fixed_grid(self) -> bool:
        """Whether every picture is on one grid."""
        return self.name == "fixed_grid"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The group `data`."""

    source: Literal["auto", "bundled", "hub"]
    path: Path | None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """The group `reading`.

    Attributes:
        workers: threads that read pictures ahead.
        pictures_per_pass: pictures that go through the vision tower together.
    """

    workers: Natural | Literal["auto"]
    pictures_per_pass: Count | Literal["auto"]


@dataclass(frozen=True)
class Workload:
    """What measure=efficiency times.

    Attributes:
        width: of the picture, in pixels.
        height: likewise.
        text_tokens: tokens of the prompt beside the visual ones.
        new_tokens: generated, neither more nor fewer.
        warm_up: runs before the timed ones.
        repeats: timed runs.
    """

    width: Count
    height: Count
    text_tokens: Annotated[int, TWO_AT_LEAST]
    new_tokens: Count
    warm_up: Natural
    repeats: Count


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options and groups of `configs/config.yaml`, which explains them.

    Paths have `~` written out, and `model.prompt` is the template itself.
    """

    model: ModelOptions
    method: MethodOptions
    task: Benchmark
    data: DataOptions
    protocol: ProtocolOptions
    profile: dict[str, Any]
    measure: Literal[
        "accuracy", "generation_attention", "cls_attention", "gallery", "efficiency", "efficiency_stock"
    ]
    budget: Share | None
    tokens: Count | None
    tokens_per_partition: Count | None
    positions: Literal["compact", "original"] | None
    limit: Count | None
    precision: Annotated[float, POINTS] | None
    decide: str | None
    order: Literal["random", "dataset"]
    order_seed: Seed
    batch_size: Count | Literal["auto"]
    share_prefix: bool
    decoding: Literal["eager", "static"]
    reading: ReadingOptions
    device: str
    seed: Seed
    on_error: Literal["stop", "record"]
    runs_dir: Path
    rerun: bool
    efficiency: Workload

    @property
    def timed(self) -> bool:
        """Whether time is measured, on made-up pictures."""
        return self.measure.startswith("efficiency")

    @property
    def of_method(self) -> dict[str, Any]:
        """The options of the method that are set at the top level."""
        values = {name: getattr(self, name) for name in OF_METHOD}
        return {name: value for name, value in values.items() if value is not None}


OF_METHOD = (*BUDGETS, "positions")
"""Options of a run that are the method's; where one is set, it takes the place of the method's own."""
GROUPS = {
    "model": ModelOptions,
    "task": Benchmark,
    "data": DataOptions,
    "protocol": ProtocolOptions,
    "reading": ReadingOptions,
    "efficiency": Workload,
}
"""The groups whose options are the same in every run; those of `method` are its class's."""


def kinds() -> dict[str, Any]:
    """The type of each option by its full name, e.g. 'model.path'; those of methods are in their classes."""
    of_groups = {
        f"{group}.{name}": kind
        for group, declaration in GROUPS.items()
        for name, kind in types_of(declaration).items()
    }
    apart = (*GROUPS, "method", "profile")
    return {name: kind for name, kind in types_of(RunConfig).items() if name not in apart} | of_groups


def read_config(resolved: dict[str, Any]) -> RunConfig:
    """A resolved config in which every value has the type of its option.

    Raises:
        UserError: an option that is missing or unknown, a value of another type, or no such method.
    """
    resolved = {"profile": {}, **resolved}
    own = _read_options(RunConfig, resolved, "", (*GROUPS, "method", "profile"))
    return RunConfig(
        **own,
        model=read_model(resolved["model"]),
        method=read_method(resolved["method"]),
        task=read_task(resolved["task"]),
        data=_read_group("data", resolved["data"]),
        protocol=_read_group("protocol", resolved["protocol"]),
        reading=_read_group("reading", resolved["reading"]),
        profile=resolved["profile"],
        efficiency=_read_group("efficiency", resolved["efficiency"]),
    )


def read_model(options: dict[str, Any]) -> ModelOptions:
    """The group `model`, with the template of its prompt in place of a name.

    Raises:
        UserError: an option that is missing or unknown, a value of another type, or no such prompt.
    """
    from hired_eval.models.configs import prompt_named

    model: ModelOptions = _read_group("model", options)
    return replace(model, prompt=prompt_named(model.prompt))


def read_task(options: dict[str, Any]) -> Benchmark:
    """The group `task`, with the scale and the category of its scoring where it names none.

    Raises:
        UserError: an option that is missing or unknown, a value of another type, or no such scoring.
    """
    task: Benchmark = _read_group("task", {k: v for k, v in options.items() if k not in (*ABOUT, "group")})
    scorer = scorer_for(task)
    return replace(task, scale=scorer.scale, category=scorer.category)


def _read_group(group: str, options: dict[str, Any]) -> Any:
    return GROUPS[group](**_read_options(GROUPS[group], options, f"{group}."))


def _read_options(
    declaration: type, options: dict[str, Any], prefix: str, apart: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options of a declaration, all of them there and of their types, those that are read apart left out.

    Raises:
        UserError: naming the option.
    """
    known = types_of(declaration)
    defaults = {field.name: field.default for field in fields(declaration) if field.default is not MISSING}
    options = {**defaults, **options}
    for name in options.keys() - known.keys():
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {prefix}{close[0]}? " if close else ""
        raise UserError(f"there is no option {prefix}{name}; {meant}known: {', '.join(known)}")
    for name in known:
        if name not in options:
            raise UserError(
                f"the config lacks {prefix}{name}; build on a packaged config, as docs/extending.md shows"
            )
    own = {name: value for name, value in options.items() if name not in apart}
    return check_options(declaration, own, prefix)


def method_class(target: str) -> type[TokenDropper]:
    """The class that a method's `_target_` names.

    Raises:
        UserError: its module or the class cannot be found or loaded, or it is no dropping method.
    """
    from hired_eval.dropping import TokenDropper  # torch, which --help does not need

    module, _, name = target.rpartition(".")
    try:
        loaded = import_module(module)
        found = getattr(loaded, name, None)
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: syntax error ({error.msg}); correct it") from error
    except (NameError, AttributeError, TypeError) as error:
        raise UserError(
            f"the module {module} cannot be loaded ({type(error).__name__}: {first_line(error)}); correct it"
        ) from error
    except (ImportError, ValueError) as error:
        lacking = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacking and not f"{module}.".startswith(f"{lacking}."):
            raise UserError(
                f"the module {module} imports {lacking}, which is not installed; install it or correct the "
                "name"
            ) from error
        raise UserError(
            f"{target} cannot be found ({first_line(error)}); correct the name, start python -m hired_eval "
            "in the folder of your module, or install it"
        ) from error
    if found is None:
        classes = [
            known
            for known, value in vars(loaded).items()
            if isinstance(value, type) and f"{value.__module__}.".startswith(f"{module}.")
        ]
        raise UserError(unknown(f"class {name!r} in {loaded.__file__} (method._target_)", name, classes))
    if not (isinstance(found, type) and issubclass(found, TokenDropper)):
        raise UserError(
            f"{target} is not a dropping method: method._target_ names a subclass of TokenDropper"
        )
    return found


def read_method(method: dict[str, Any]) -> MethodOptions:
    """The group `method`: `_target_`, the options of the class that it names, and what tables say of it.

    Raises:
        UserError: an option that the method does not have, one whose name a config uses for something else, a
            value of another type, or see `method_class`.
    """
    named = target_of(method)
    target = method_class(named)
    options = {name: value for name, value in method.items() if name not in ABOUT}
    if target.__name__ == COMPOSED:
        parts = {name: read_method(part) for name, part in options.items()}
        label = method.get("label") or " + ".join(part.label for part in parts.values())
        return MethodOptions(target=named, label=label, options={}, parts=parts)
    known = types_of(target)
    for option in ABOUT:
        if option in known:
            raise UserError(
                f"{target.__name__} has an option {option!r}, which in a method's config is for tables; give "
                "the option another name"
            )
    for option in options:
        if option not in known:
            raise UserError(f"{target.__name__} has no option {option!r}; its options: {', '.join(known)}")
    label = check_value("method.label", str, method.get("label") or target.__name__)
    return MethodOptions(target=named, label=label, options=check_options(target, options))


def build_dropper(method: MethodOptions, asked: Mapping[str, Any] | None = None) -> TokenDropper:
    """The dropping method of a config, with the options that are set at the top level.

    Args:
        method: the config.
        asked: see `RunConfig.of_method`.

    Raises:
        UserError: an option that the method does not have, a value out of range, or several budgets.
    """
    asked = asked or {}
    options, target = method.options, method_class(method.target)
    name = method.label if method.parts else target.__name__
    budgets = [option for option in asked if option in BUDGETS]
    if len(budgets) > 1:
        raise UserError(f"{' and '.join(budgets)} are two budgets; set one of them")
    for option, value in asked.items():
        if method.takes(option):
            continue
        if option in BUDGETS and not any(map(method.takes, BUDGETS)):
            raise UserError(f"{name} has no token budget of its own; leave {option}={value} out")
        others = [other for other in BUDGETS if method.takes(other)]
        instead = f"; set {' or '.join(others)}" if option in BUDGETS else "; leave it out"
        raise UserError(f"{name} has no option {option}{instead}")
    if method.parts:
        with_budget = _part_with_budget(method)
        return _composed(
            build_dropper(
                part,
                {
                    option: value
                    for option, value in asked.items()
                    if part.takes(option) and (option not in BUDGETS or name == with_budget)
                },
            )
            for name, part in method.parts.items()
        )
    if budgets:
        options = {option: value for option, value in options.items() if option not in BUDGETS}
    if isabstract(target):
        lacking = " and ".join(sorted(target.__abstractmethods__))
        raise UserError(f"{target.__name__} lacks {lacking}; write it (docs/extending.md)")
    try:
        return target(**{**options, **asked})
    except TypeError as error:  # an option without a default
        raise UserError(f"{target.__name__} cannot be made: {first_line(error)}") from error


def _part_with_budget(method: MethodOptions) -> str | None:
    from hired_eval.dropping.composed import takes_budget

    return takes_budget({name: method_class(part.target) for name, part in method.parts.items()})


def _composed(parts: Iterable[TokenDropper]) -> TokenDropper:
    from hired_eval.dropping.composed import Composed

    return Composed(tuple(parts))


def dump_config(config: RunConfig) -> dict[str, Any]:
    """A config for JSON, with the user's home folder written as ~ where it begins a path."""
    hidden: dict[str, Any] = _hidden({**asdict(config), "method": _as_typed(config.method)})
    return hidden


def _as_typed(method: MethodOptions) -> dict[str, Any]:
    parts = {name: _as_typed(part) for name, part in method.parts.items()}
    return {"_target_": method.target, "label": method.label, **method.options, **parts}


def _hidden(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _hidden(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_hidden(value) for value in part]
    return write_tilde(str(part)) if isinstance(part, Path) else part
