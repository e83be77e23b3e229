"""Where documents come from, and which files of a folder are the data set that a task asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import lmms_eval.tasks

from hired_eval.errors import UserError
from hired_eval.lmms.data_cards import Card, read_card
from hired_eval.lmms.parquet_files import (
    content_of,
    count_rows,
    is_parquet,
    list_parquet,
    order_shards,
    read_shard,
)

BUNDLED = "bundled:"
LOCAL_COPY = "local copy"
COPY_AGAIN = "copy it again"
IN_CACHE = re.compile(r"datasets--(?:(?P<owner>.+)--)?(?P<name>.+)")
PATH = re.compile(r"^dataset_path: *[\"']?([^\s\"'#]+)", re.MULTILINE)
CONFIG = re.compile(r"^dataset_name: *[\"']?([^\s\"'#]+)", re.MULTILINE)
INCLUDE = re.compile(r"^include: *[\"']?([^\s\"'#]+)", re.MULTILINE)
DEEP, LISTED = 3, 8
"""Levels below `data.path` that are looked at for a message, and how many folders it lists."""
OTHER_FORMATS = {
    ".arrow": "Arrow files, as save_to_disk writes them; convert a split with "
    "datasets.load_from_disk(FOLDER)['{split}'].to_parquet('{split}.parquet')",
    ".csv": "CSV files; pictures must be in parquet",
    ".tsv": "TSV files; pictures must be in parquet",
    ".json": "JSON files; pictures must be in parquet",
    ".jsonl": "JSON files; pictures must be in parquet",
    ".zip": "packed files (.zip); unpack them",
    ".tar": "packed files (.tar); unpack them",
    ".gz": "packed files (.gz); unpack them",
}


@dataclass(frozen=True)
class DataSource:
    """Where a benchmark's documents come from.

    Attributes:
        source: 'bundled' or 'hub'.
        path: for 'hub': a folder with a local copy of the data set, in parquet.
        name: what the user calls the documents in it; None for those of the hub.
    """

    source: Literal["bundled", "hub"]
    path: Path | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """What records and tables call it; runs with different labels are not compared."""
        return self.name or (self.source if self.path is None else LOCAL_COPY)


@dataclass(frozen=True)
class Wanted:
    """The documents that a task of lmms-eval reads.

    Attributes:
        repository: id of the data set on the hub.
        config: its config; None for the default one.
        split: the split.
    """

    repository: str
    config: str | None
    split: str

    @property
    def name(self) -> str:
        """The repository's name, without its owner."""
        return self.repository.rpartition("/")[2]

    @property
    def owner(self) -> str:
        """The repository's owner."""
        return self.repository.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.repository}, config {self.config}" if self.config else self.repository


def find_data_source(
    source: Literal["auto", "bundled", "hub"],
    path: Path | None,
    model_path: Path | None,
    name: str | None = None,
) -> DataSource:
    """Where the documents come from; 'auto' is bundled data for a bundled model, and the hub otherwise.

    Raises:
        UserError: a path that is no folder, or one beside the bundled data; a name without a path, or that
            tables cannot show.
    """
    if name is not None:
        if path is None:
            raise UserError(f"data.name={name} is for documents of your own; set data.path=FOLDER too")
        if not name.strip() or not name.isprintable() or name in ("bundled", "hub", LOCAL_COPY):
            raise UserError(
                f"data.name must be a word of your own on one line, not bundled, hub or {LOCAL_COPY}; "
                f"got {name!r}"
            )
    if path is not None:
        if source == "bundled":
            raise UserError(f"data=bundled and data.path={path} exclude each other; leave one out")
        if path.expanduser().is_file():
            raise UserError(f"data.path={path} is a file; name the folder that it is in")
        if not path.expanduser().is_dir():
            raise UserError(f"data.path={path} is not a folder")
        return DataSource("hub", path, name)
    if source == "auto":
        source = "bundled" if str(model_path).startswith(BUNDLED) else "hub"
    return DataSource(source)


def wanted(config: dict[str, Any]) -> Wanted:
    """The documents that a task's config names; its test split, or where it has none its validation split."""
    name = config.get("dataset_name")
    split = config.get("test_split") or config.get("validation_split")
    return Wanted(str(config["dataset_path"]), None if name in (None, "default") else str(name), str(split))


def find_local_files(folder: Path, asked: Wanted) -> list[Path]:
    """The files of a local copy that hold the documents of a task: the whole split, once, in order.

    Args:
        folder: `data.path`: the data set, one of its configs, or a folder with several data sets, each named
            as on the hub.
        asked: what the task reads.

    Raises:
        UserError: the folder cannot be shown to hold exactly these documents; the message says what it holds.
    """
    folder = folder.expanduser().absolute()
    if "::" in str(folder):
        raise UserError(f"data.path={folder}: the datasets library cannot read a path with '::'; rename it")
    if folder.name == "data" and _is_named(folder.parent, asked):
        folder = folder.parent
    roots = [_snapshot(folder), *map(_snapshot, _named_below(folder, asked))]
    files, card = _files(folder, list(dict.fromkeys(roots)), asked)
    found = count_rows(files, COPY_AGAIN)
    expected = card.count(asked.config, asked.split)
    if expected is not None and found != expected:
        raise UserError(
            f"{files[0].parent} holds {found} documents of split {asked.split}, and its README.md says "
            f"{expected}; copy it whole (limit=NUMBER answers a part)"
        )
    return files


def _files(folder: Path, roots: list[Path], asked: Wanted) -> tuple[list[Path], Card]:
    """The files of a split, and the card that describes them.

    Raises:
        UserError: see `find_local_files`.
    """
    cards = {root: read_card(root) for root in roots}
    for root, card in cards.items():
        # a data set with one config that has no name of its own is what the folder says
        name = card.default if card.configs.keys() == {"default"} else asked.config or card.default
        if name in card.configs and not _other_repository(root, asked):
            if name != asked.config:
                _refuse_another(folder, root, Card(root), asked)
            listed = card.files(name, asked.split)
            if listed is not None:
                if not all(map(is_parquet, listed)):
                    raise UserError(f"{root} holds {asked} not as parquet ({listed[0].name}); convert it")
                return listed, card
    if asked.config or any((root / "default").is_dir() for root in roots):
        config = asked.config or "default"
        inner = {_innermost(root, config): root for root in roots if (root / config).is_dir()}
        if len(inner) > 1:
            raise UserError(
                f"data.path={folder} holds {asked} more than once ({', '.join(map(str, inner))}); set "
                "data.path to one of them"
            )
        for place, root in inner.items():
            if not _other_repository(root, asked):
                if not _is_named(folder, asked):
                    _refuse_own_split(roots[0], place, asked)
                _refuse_another(folder, place, Card(place), asked)
                return _whole_split(folder, place, asked), cards[root]
    flat = roots[1:] or roots
    if len(flat) > 1:
        raise UserError(
            f"data.path={folder} holds {asked.name} more than once ({', '.join(map(str, flat))}); set "
            "data.path to one of them"
        )
    place = flat[0]
    _refuse_own_split(roots[0], place, asked)
    _refuse_another(folder, place, cards[place], asked)
    above = read_card(place.parent) if asked.config and place.name == asked.config else Card(place)
    return _whole_split(folder, place, asked), cards[place] if cards[place].documents else above


def _whole_split(folder: Path, place: Path, asked: Wanted) -> list[Path]:
    """The files of a split in the one layout of the hub's that a config's folder has.

    Raises:
        UserError: there is none, or there are several.
    """
    split = asked.split
    layouts = []
    for inner in (place, place / "data"):
        if inner.is_dir():
            direct = [one for one in map(read_shard, list_parquet(inner)) if one.split == split]
            if inner.name == split and not direct:
                direct = [read_shard(file, split) for file in list_parquet(inner)]
            layouts.append(direct)
        if (inner / split).is_dir():
            layouts.append([read_shard(file, split) for file in list_parquet(inner / split)])
    layouts = [layout for layout in layouts if layout]
    if not layouts:
        below, found = "/".join(filter(None, (asked.name, asked.config))), _found(folder, split)
        raise UserError(
            f"data.path={folder} has no split {split} of {asked}; found: {found}. Its parquet "
            f"files must be in that folder, or in {below} below it, named as on the hub: "
            f"{split}-00000-of-00001.parquet"
        )
    if len(layouts) > 1:
        places = ", ".join(str(layout[0].file.parent) for layout in layouts)
        raise UserError(f"split {split} of {asked} was found more than once ({places}); leave one of them")
    return order_shards(layouts[0])


def _refuse_own_split(folder: Path, place: Path, asked: Wanted) -> None:
    """Refuse a folder that has the split itself and in a folder below it that is called as the data set.

    Raises:
        UserError: naming both.
    """
    if place != folder and any(read_shard(file).split == asked.split for file in list_parquet(folder)):
        raise UserError(
            f"data.path={folder} holds a split {asked.split} of its own, and one in {place}; name a folder "
            "with one of them"
        )


def _refuse_another(folder: Path, place: Path, card: Card, asked: Wanted) -> None:
    """Refuse files that lie in a folder of another name, or in one where their config cannot be told.

    Raises:
        UserError: naming what the folder is.
    """
    other = _other_repository(place, asked) or _other_config(place, card, asked)
    if other is None:
        return
    raise UserError(
        f"{place} is {other} by its name, and the task reads {asked}; found: {_found(folder, asked.split)}. "
        "Set data.path to the right folder, or rename this one if it holds these documents"
    )


def _other_repository(place: Path, asked: Wanted) -> str | None:
    """The other data set that a folder is by its name; the task's own has precedence."""
    for name, owner in _names(place):
        own = {asked.name.casefold(), (asked.config or asked.name).casefold()}
        if owner is not None and name.casefold() == asked.name.casefold() and not _same_owner(owner, asked):
            return f"{owner}/{name}"
        if name.casefold() not in own and name.casefold() in known_data_sets():
            return f"the data set {name}"
    return None


def _other_config(place: Path, card: Card, asked: Wanted) -> str | None:
    """The other config that a folder is by its name; 'one of several' for files that no config is told of."""
    above = place.parent
    known = known_data_sets().get(asked.name.casefold(), frozenset())
    configs = known | card.configs.keys()
    if _is_named(above, asked):
        configs |= read_card(above).configs.keys()
    own = (asked.config or "").casefold()
    for name, _ in _names(place):
        for config in configs:
            if config.casefold() == name.casefold() != own and not (
                asked.config is None and config.casefold() in (asked.name.casefold(), "default")
            ):
                return f"the config {config} of {asked.name}"
        if asked.config and asked.name.casefold() == name.casefold() != own and len(configs) > 1:
            return f"one of the configs {', '.join(sorted(configs))} of {asked.name}"
    if asked.config and card.configs and not card.configs.keys() & {"default", asked.config}:
        return f"one of the configs {', '.join(sorted(card.configs))} (README.md), not {asked.config},"
    return None


def _names(place: Path) -> Iterator[tuple[str, str | None]]:
    """What a folder is called, as named and as its link leads to; of the hub's cache, name and owner."""
    for path in dict.fromkeys((place, place.resolve())):
        at = path.parent.parent if path.parent.name == "snapshots" else path
        found = IN_CACHE.fullmatch(at.name)
        yield (found["name"], found["owner"]) if found else (at.name, None)


def _is_named(place: Path, asked: Wanted) -> bool:
    """Whether a folder has the name of the task's data set."""
    return any(
        name.casefold() == asked.name.casefold() and (owner is None or _same_owner(owner, asked))
        for name, owner in _names(place)
    )


def _same_owner(owner: str, asked: Wanted) -> bool:
    """lmms-eval's own copies have moved between owners that are all called lmms-lab-something."""
    lmms_lab = owner.startswith("lmms-lab") and asked.owner.startswith("lmms-lab")
    return owner.casefold() == asked.owner.casefold() or lmms_lab


def _named_below(folder: Path, asked: Wanted) -> list[Path]:
    """The folders called as the data set, one level below or, where there is none, two.

    Of several, the one of the exact owner is taken, or else of the exact spelling.
    """
    level = [folder]
    for _ in range(2):
        level = [path for place in level for path in _readable(place) if path.is_dir()]
        named = [path for path in level if _is_named(path, asked)]
        for exact in (f"datasets--{asked.repository.replace('/', '--')}", asked.repository, asked.name):
            chosen = [path for path in named if path.match(exact)]
            if len(named) > 1 and len(chosen) == 1:
                return chosen
        if named:
            return named
    return []


def _innermost(root: Path, config: str) -> Path:
    """The folder of a config, which may lie in a repository of the same name."""
    place = root / config
    return place / config if (place / config).is_dir() else place


def _snapshot(place: Path) -> Path:
    """The files of a repository in the hub's cache, at its main branch's commit; another folder as it is.

    Raises:
        UserError: there are several commits, and none is main.
    """
    cached = place.parent if place.name == "snapshots" else place
    if not IN_CACHE.fullmatch(cached.name) or not (cached / "snapshots").is_dir():
        return place
    main = cached / "refs" / "main"
    if main.is_file() and (commit := cached / "snapshots" / main.read_text().strip()).is_dir():
        return commit
    commits = content_of(cached / "snapshots")
    if len(commits) == 1:
        return commits[0]
    raise UserError(
        f"{cached} holds {len(commits)} commits ({', '.join(path.name for path in commits)}), and refs/main "
        "names none of them; set data.path to one of them"
    )


def _readable(place: Path) -> list[Path]:
    """What lies in a folder; nothing where it cannot be read, which is no matter where it is only passed."""
    try:
        return content_of(place)
    except UserError:
        return []


def _found(folder: Path, split: str) -> str:
    """What lies below a folder, in one line."""
    lines: list[str] = []
    others: set[str] = set()
    level = [folder]
    for _ in range(DEEP + 1):
        inner: list[Path] = []
        for place in level:
            content = _readable(place)
            if names := list(dict.fromkeys(read_shard(file).split for file in content if is_parquet(file))):
                lines.append(f"{place.relative_to(folder)}/ with {', '.join(names[:LISTED])}")
            others |= {path.suffix.lower() for path in content if path.is_file()}
            inner += [path for path in content if path.is_dir()]
        level = inner
    more = f", and {len(lines) - LISTED} more folders" if len(lines) > LISTED else ""
    kinds = dict.fromkeys(text.format(split=split) for end, text in OTHER_FORMATS.items() if end in others)
    return "; ".join(filter(None, chain(lines[:LISTED], [more.lstrip(", ")], kinds))) or "no parquet files"


@cache
def known_data_sets() -> dict[str, frozenset[str]]:
    """Names of the data sets that lmms-eval's tasks read, in lower case -> their configs that tasks name."""
    known: dict[str, set[str]] = {}
    for file in sorted(Path(lmms_eval.tasks.__file__).parent.rglob("*yaml")):
        text = file.read_text(errors="replace")
        path, config = PATH.search(text), CONFIG.search(text)
        if path is None and config and (include := INCLUDE.search(text)):
            template = file.parent / include[1]
            path = PATH.search(template.read_text(errors="replace")) if template.is_file() else None
        if path and "/" in path[1]:
            configs = known.setdefault(path[1].rpartition("/")[2].casefold(), set())
            configs |= {config[1]} if config else set()
    return {name: frozenset(configs) for name, configs in known.items()}
