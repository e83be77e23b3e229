"""The chosen set: which methods on which benchmarks, and what may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hired_eval.cli.composing import compose_config
from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.paths import config_folder
from hired_eval.reporting.regression import Tolerance


@dataclass(frozen=True, kw_only=True)
class ChosenSet:
    """A file of `configs/regression/`.

    Attributes:
        overrides: Hydra's overrides of every run.
        methods: name of a run -> the overrides that it adds, separated by spaces.
        benchmarks: names of `configs/task/`.
        samples: first documents of each benchmark.
        reference: folder of the committed results.
        tolerance: what may differ.
    """

    methods: dict[str, str]
    benchmarks: list[str]
    samples: int
    reference: str
    tolerance: Tolerance
    overrides: list[str] = field(default_factory=list)

    def config(self, method: str, benchmark: str) -> dict[str, Any]:
        """The resolved config of one run, on the set's first documents.

        Raises:
            UserError: an override names nothing that is there.
        """
        of_method = _composed((*self.overrides, *self.methods[method].split()))
        of_benchmark = _composed((*self.overrides, f"task={benchmark}"))
        return {**of_method, "task": of_benchmark["task"], "limit": self.samples, "order": "dataset"}

    def part(
        self, methods: Sequence[str] | None, benchmarks: Sequence[str] | None, samples: int | None
    ) -> ChosenSet:
        """The set cut down to some methods, benchmarks and documents.

        Raises:
            UserError: a name that the set does not have, or more documents than it has.
        """
        for kind, asked, known in (
            ("method", methods, list(self.methods)),
            ("benchmark", benchmarks, self.benchmarks),
        ):
            for name in asked or []:
                if name not in known:
                    raise UserError(f"the set has no {kind} {name!r}; it has {', '.join(known)}")
        if samples is not None and not 1 <= samples <= self.samples:
            raise UserError(f"--samples must be from 1 to {self.samples}, as many as the set has")
        return replace(
            self,
            methods={m: o for m, o in self.methods.items() if methods is None or m in methods},
            benchmarks=[b for b in self.benchmarks if benchmarks is None or b in benchmarks],
            samples=samples or self.samples,
        )


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The config that the command line makes of overrides; cached, since Hydra takes its time.

    Raises:
        UserError: an override names nothing that is there.
    """
    return compose_config(overrides)


def read_set(name: str) -> ChosenSet:
    """The set of a name under `configs/regression/`, or of a file.

    Raises:
        UserError: no such set, or a mistake in it.
    """
    folder = config_folder() / "regression"
    file = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        known = ", ".join(sorted(f.stem for f in folder.glob("*.yaml")))
        raise UserError(f"there is no set {name!r}; known: {known}, or a file NAME.yaml") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        content = {**content}
        methods = _every_method(content.pop("every_method", None)) | content["methods"]
        tolerance = Tolerance(**content["tolerance"])
        return ChosenSet(**{**content, "methods": methods, "tolerance": tolerance})
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{file} is not a regression set: {error}; see configs/regression/mini.yaml"
        ) from error


def _every_method(budget: str | None) -> dict[str, str]:
    """A run of every built-in method: name -> overrides, with `budget` where it has one; none without it."""
    if budget is None:
        return {}
    return {
        name: f"method={name} {budget}" if "budget" in config.options else f"method={name}"
        for name, config in method_configs().items()
    }
