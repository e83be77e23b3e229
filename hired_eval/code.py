"""The code that a result depends on: what a module reaches by import, without comments and formatting."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from hired_eval.method_configs import class_modules
from hired_eval.paths import PACKAGE

INSTALLED = {"site-packages", "dist-packages"}
NOT_READ = {".py", ".pyc", ".pyi", ".md"}
"""Of the files beside a method of somebody else's: code, which is followed by its imports, and prose."""
DECIDES_NOTHING = {
    f"{PACKAGE.name}.{module}"
    for module in (
        "cli", "code", "dropping.registry", "dropping.waits", "errors", "hub", "lmms.data_cards",
        "lmms.local_data", "lmms.manifest", "lmms.mini_tasks", "lmms.parquet_files", "method_configs", "mini",
        "models.apply", "models.configs", "models.convert", "models.own_methods", "paths", "processes",
        "records.flips", "records.folder", "records.goal", "records.record", "records.replies",
        "records.sequences", "records.store", "runs.accuracy", "runs.efficiency", "runs.forecast",
        "runs.identity", "runs.measuring", "runs.options", "runs.plan", "runs.precision", "runs.probes",
        "runs.redrawn", "runs.together", "typed",
    )
}  # fmt: skip
"""Modules of this package that do not decide what is answered or scored, unless they are asked for by name:
they find, keep, or name; the documents and weights that they find count by their content."""
WITH_EVERY_METHOD = (PACKAGE.name, f"{PACKAGE.name}.dropping")
"""Packages that give out the class of a method when it is asked for."""


def find_code_reached(roots: Iterable[str]) -> dict[str, str]:
    """What decides the results of some modules, each with a hash: code by module, data by file, libraries.

    Of this package, a name that is imported counts with the module that defines it, so that a method is not
    changed by another one. Of somebody else's code, everything reached by import counts, wherever it lies,
    imports inside functions included; so do the files beside it that it names in a string, and all files of
    the package of a root. Of what is installed, the version counts. Comments, docstrings and formatting never
    do. A module found by a computed name counts where it lies in the same package, or is loaded by now.

    Args:
        roots: names of modules.
    """
    roots = tuple(dict.fromkeys(roots))
    own_tops = {root.partition(".")[0] for root in roots} - {PACKAGE.name}
    found: dict[str, str] = {}
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if name in seen or top in sys.stdlib_module_names:
            continue
        seen.add(name)
        file = _file(name)
        if file is None or (_within(name, DECIDES_NOTHING) and not _within(name, roots)):
            continue
        if top == PACKAGE.name:
            found[name] = _digest(file)
            todo += _names_defined_here(name, file)
            continue
        if top not in own_tops and INSTALLED & set(file.parts):
            found |= _distributions(top)
            continue
        found[name] = _digest(file)
        todo += _parents(name)
        if file.suffix == ".py":
            todo += _imported(name, file)
            found |= {f"file {text} {digest[:8]}": digest for text, digest in _files_named(file)}
    for top in own_tops:
        found |= _package_data(top)
    return dict(sorted(found.items()))


def _within(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of some modules, or lies in one that is a package."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing anything."""
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    return None


def _file(name: str) -> Path | None:
    """A module's file; None for one without, as a namespace package, or one that is not there."""
    spec = _spec(name)
    origin = spec.origin if spec else getattr(sys.modules.get(name), "__file__", None)
    return Path(origin) if origin and Path(origin).is_file() else None


def _parents(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _digest(file: Path) -> str:
    """A hash of a file's content; of Python code, of what it does."""
    tree = _parsed(file) if file.suffix == ".py" else None
    return content_hash(file) if tree is None else _code_hash(tree)


@cache
def _code_hash(tree: ast.Module) -> str:
    return hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()


def _parsed(file: Path) -> ast.Module | None:
    """A file's syntax without prose; None where it has none, as then it cannot be imported either."""
    return _parsed_once(file.resolve(), *_state(file))


@cache
def _parsed_once(file: Path, *state: int) -> ast.Module | None:
    try:
        tree: ast.Module = _WithoutProse().visit(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return None
    return tree


def _walked(file: Path) -> list[ast.AST]:
    """What of a file's syntax may import something or name a file."""
    tree = _parsed(file)
    return [] if tree is None else _telling(tree)


@cache
def _telling(tree: ast.Module) -> list[ast.AST]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom | ast.Call | ast.Constant)]


def content_hash(file: Path) -> str:
    """A hash of all of a file, read once a process as long as the file stays as it is."""
    return _content_hash(file.resolve(), *_state(file))


@cache
def _content_hash(file: Path, *state: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state(file: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class _WithoutProse(ast.NodeTransformer):
    """Takes docstrings, of attributes too, out of a syntax tree, and how a string was written."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        node.kind = None
        return node


def _names_defined_here(module: str, file: Path) -> Iterator[str]:
    """The modules of this package that define what a module of this package imports or gives out."""
    if module in WITH_EVERY_METHOD:
        yield from class_modules().values()
    for node in _walked(file):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, file)
            names = [_defining(source, alias.name) for alias in node.names]
        yield from (name for name in names if name.partition(".")[0] == PACKAGE.name)


def _defining(package: str, name: str) -> str:
    """The module that defines a name which a package of ours may only pass on."""
    if package.partition(".")[0] != PACKAGE.name:
        return package
    if _file(f"{package}.{name}") is not None:
        return f"{package}.{name}"
    file = _file(package)
    if file is not None and file.name == "__init__.py":
        for node in _walked(file):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _defining(_absolute(node, package, file), alias.name)
    return class_modules().get(name, package) if package in WITH_EVERY_METHOD else package


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    """The full name of the module that `from ... import` reads."""
    if not node.level:
        return node.module or ""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _resolved("." * node.level + (node.module or ""), package)


def _resolved(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # beyond the top: it fails when it runs
        return ""


def _imported(module: str, file: Path) -> Iterator[str]:
    """All that a module of somebody else's imports, at its top or inside functions."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _walked(file):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, *_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, file)
            if source.partition(".")[0] == PACKAGE.name:
                yield from (_defining(source, alias.name) for alias in node.names)
            elif source:
                yield from (source, *_parents(source), *(f"{source}.{a.name}" for a in node.names))
        elif isinstance(node, ast.Call) and _name_called(node) in ("import_module", "__import__"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str):
                yield _resolved(name, package)
            else:
                yield from _neighbours(module, file)


def _name_called(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def _neighbours(module: str, file: Path) -> Iterator[str]:
    """Modules that a computed name may mean: all of the package; without one, those loaded by now."""
    top = _file(module.partition(".")[0])
    if top is not None and top.name == "__init__.py":
        for other in top.parent.rglob("*.py"):
            parts = [top.parent.name, *other.relative_to(top.parent).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return
    for name, loaded in list(sys.modules.items()):
        place = getattr(loaded, "__file__", None)
        if place and Path(place).parent == file.parent:
            yield name


def _files_named(file: Path) -> Iterator[tuple[str, str]]:
    """Files that the strings of a module name, as they are, beside it or in a folder that it names there."""
    texts = {
        node.value
        for node in _walked(file)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if 0 < len(node.value) < 200 and node.value.isprintable() and node.value.strip("./")
    }
    here = file.parent
    for text in sorted(texts):
        for place in (here, Path(), *(here / folder for folder in texts if (here / folder).is_dir())):
            if (place / text).is_file():
                yield Path(text).name, _digest(place / text)


def _package_data(top: str) -> dict[str, str]:
    """All files of a package but its code and prose; none of a folder that the work is done in."""
    file = _file(top)
    if file is None or file.name != "__init__.py" or Path.cwd().is_relative_to(file.parent.resolve()):
        return {}
    found = {}
    for other in sorted(file.parent.rglob("*")):
        name = other.relative_to(file.parent)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if other.is_file() and not hidden and other.suffix not in NOT_READ:
            found[f"file {top}/{name.as_posix()}"] = _digest(other)
    return found


@cache
def _providers() -> Any:
    return importlib.metadata.packages_distributions()


def _distributions(top: str) -> dict[str, str]:
    """The installed distributions that a module's top-level name comes from, with their versions."""
    names = _providers().get(top, [])
    return {f"library {name}": public(importlib.metadata.version(name)) for name in sorted(set(names))}


def public(version: str) -> str:
    """A version without its local part, which says for which device a library was built."""
    return version.partition("+")[0]
