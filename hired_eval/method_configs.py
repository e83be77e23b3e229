"""The built-in methods as the files of `configs/method/` name them; no class is imported, and no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from hired_eval.errors import UserError
from hired_eval.paths import PACKAGE, config_folder

ABOUT = ("_target_", "label", "place")
"""What the config of a method says beside the options of its class: which class it is, the name that tables
show, and where they list it; a method without a place follows those that have one."""
BUDGETS = ("budget", "tokens", "tokens_per_partition")
"""The options that say how many visual tokens a method may keep, of which a run has one at most."""
JOIN = " + "
"""Between the classes of a composition."""
FULL = "full"
"""The method that the others are compared with."""


@dataclass(frozen=True)
class MethodConfig:
    """One file of `configs/method/`.

    Attributes:
        name: of the file; what `method=` takes.
        target: full name of the class, in the module that defines it.
        label: the name that tables show.
        options: of the class, as the file has them, `${model.alpha}` and the like unresolved.
    """

    name: str
    target: str
    label: str
    options: dict[str, Any]

    @property
    def module(self) -> str:
        """The module that defines the class."""
        return self.target.rpartition(".")[0]

    @property
    def class_name(self) -> str:
        """Name of the class without its module."""
        return self.target.rpartition(".")[2]


@cache
def method_configs() -> dict[str, MethodConfig]:
    """The built-in methods by name, in the order of the tables."""
    files = {file.stem: file for file in sorted((config_folder() / "method").glob("*.yaml"))}
    contents = {name: yaml.safe_load(file.read_text()) for name, file in files.items()}
    return {
        name: MethodConfig(
            name,
            target=contents[name]["_target_"],
            label=contents[name].get("label", contents[name]["_target_"].rpartition(".")[2]),
            options={option: value for option, value in contents[name].items() if option not in ABOUT},
        )
        for name in sorted(contents, key=lambda name: (contents[name].get("place", math.inf), name))
    }


def class_modules() -> dict[str, str]:
    """The classes of the built-in methods: name -> the module that defines it."""
    return {config.class_name: config.module for config in method_configs().values()}


def class_name_of(target: str) -> str:
    """A class by the one name that reports know it by: of this package its own, of others with its module;
    of a composition all of them."""
    names = [
        one.rpartition(".")[2] if one.startswith(f"{PACKAGE.name}.") else one for one in target.split(JOIN)
    ]
    return JOIN.join(names)


def target_of(config: Mapping[str, Any]) -> str:
    """The class that the config of a method names.

    Raises:
        UserError: it names none.
    """
    target = config.get("_target_")
    if not isinstance(target, str):
        raise UserError(
            "the method's config has no _target_; write _target_: MODULE.CLASS in it (docs/extending.md)"
        )
    return target


def has_full_execution(targets: Iterable[str]) -> bool:
    """Whether one of some classes is the one that drops nothing."""
    return method_configs()[FULL].class_name in map(class_name_of, targets)


def split_name(name: str) -> list[str]:
    """The methods that 'hired+fastv' names.

    Raises:
        UserError: one of them twice.
    """
    parts = name.split("+")
    for part in parts:
        if parts.count(part) > 1:
            raise UserError(f"{name} names {part} twice; name each method once")
    return parts


def register_compositions(arguments: Iterable[str]) -> None:
    """Let Hydra find a config for each composition that is asked for, as method=hired+fastv.

    It has the config of each method under its name: `method.fastv.keep=0.3` sets an option.

    Args:
        arguments: as typed.

    Raises:
        UserError: a composition names a method twice.
    """
    asked = [value for a in arguments for value in re.findall(r"^method=(.*)", a)]
    names = {name for value in asked for name in re.findall(r"[\w-]+(?:\+[\w-]+)+", value)}
    if not names:
        return
    from hydra.core.config_store import ConfigStore  # half a second, not for --help

    for name in names:
        ConfigStore.instance().store(
            group="method",
            name=name,
            node={
                "defaults": [*({f"/method@{part}": part} for part in split_name(name)), "_self_"],
                "_target_": "hired_eval.dropping.composed.Composed",
                "label": None,
            },
        )
