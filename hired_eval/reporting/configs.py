"""What the configs say of reports: which tables there are, and how methods and benchmarks are called."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hired_eval.errors import UserError, unknown
from hired_eval.method_configs import class_name_of, target_of
from hired_eval.paths import config_folder, read_yaml
from hired_eval.records.record import Record
from hired_eval.reporting.rows import Row, label_with
from hired_eval.reporting.spec import RowSpec, TableSpec, read_spec


@dataclass(frozen=True)
class Configs:
    """The configs of the package, and before them those in a folder of the user's own."""

    own: Path | None = None

    def files(self, group: str) -> dict[str, Path]:
        """The configs of a group, by name."""
        folders = [config_folder(), *([self.own] if self.own else [])]
        return {f.stem: f for folder in folders for f in sorted((folder / group).glob("*.yaml"))}

    def spec(self, name: str) -> TableSpec:
        """The description of a table, by its name, which is one of `files`, or by its file.

        Raises:
            UserError: see `read_spec`.
        """
        return read_spec(Path(name) if name.endswith(".yaml") else self.files("report")[name])

    @cached_property
    def _tasks(self) -> dict[str, dict[str, Any]]:
        """The config of each benchmark that has one, in the order of the tables."""
        tasks = [{"name": name, **read_yaml(file)} for name, file in self.files("task").items()]
        tasks.sort(key=lambda task: (task.get("place", math.inf), task["name"]))
        return {task["name"]: task for task in tasks}

    def group(self, names: Iterable[str]) -> list[str]:
        """Benchmarks that are named, or are in a group that is.

        Raises:
            UserError: there is no such benchmark or group.
        """
        groups = {task["group"] for task in self._tasks.values() if "group" in task}
        found = list[str]()
        for name in names:
            if name not in groups | self._tasks.keys():
                raise UserError(
                    unknown(f"benchmark or group {name!r}", name, [*sorted(groups), *self._tasks])
                )
            found += [b for b, task in self._tasks.items() if name in (b, task.get("group"))]
        return found

    def benchmark_label(self, name: str) -> str:
        """A benchmark as its config calls it, or its name."""
        return str(self._tasks.get(name, {}).get("label", name))

    def benchmarks_of(self, records: Iterable[Record]) -> list[str]:
        """Names of the benchmarks of runs, in the order of the tables, then others by name."""
        names = {r.benchmark.name for r in records}
        return [*(n for n in self._tasks if n in names), *sorted(names - self._tasks.keys())]

    def row(self, spec: RowSpec) -> Row:
        """The row that a table describes.

        Raises:
            UserError: there is no such method.
        """
        config = self._method(spec.method)
        budget = config.get("budget") if spec.budget is None and spec.tokens is None else spec.budget
        options = spec.options if spec.tokens is None else {**spec.options, "tokens": spec.tokens}
        target = class_name_of(target_of(config))
        name = str(config.get("label", target.rpartition(".")[2]))
        label = spec.label or label_with(name, budget, options)
        key = {"method": spec.method, "budget": "" if budget is None else f"{budget:g}"}
        if spec.published is not None:
            key = {column: str(text) for column, text in spec.published.items()}
        return Row(label, target, budget, options, key)

    def _method(self, name: str) -> dict[str, Any]:
        """The config of a method, with what it builds on; of a class, the class alone."""
        if "." in name:
            return {"_target_": name}
        files = self.files("method")
        if name not in files:
            raise UserError(unknown(f"method {name!r}", name, files))
        content = read_yaml(files[name])
        bases = [base for base in content.get("defaults", ()) if base != "_self_"]
        inherited = {k: v for base in bases for k, v in self._method(base).items() if k != "label"}
        return {**inherited, **content}


PACKAGED = Configs()
