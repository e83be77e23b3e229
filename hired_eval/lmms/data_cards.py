"""What the README.md of a data set says of its configs, splits and files, as `datasets` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from datasets.data_files import sanitize_patterns
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from yaml import YAMLError

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.parquet_files import is_hidden, order_shards, read_shard


@dataclass(frozen=True)
class Card:
    """The YAML header of a README.md.

    Attributes:
        folder: where it lies.
        configs: config -> split -> patterns of its files, relative to the folder; empty where it names none.
        default: name of the config that is meant where none is named.
        documents: (config, split) -> number of documents.
    """

    folder: Path
    configs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    default: str | None = None
    documents: dict[tuple[str, str], int] = field(default_factory=dict)

    def count(self, config: str | None, split: str) -> int | None:
        """Number of documents that a split has, where the card says so."""
        return self.documents.get((config or self.default or "default", split))

    def files(self, config: str, split: str) -> list[Path] | None:
        """The files of a split; None where the card names none for it.

        Raises:
            UserError: files are missing, or there more than once, or are named that are outside the folder.
        """
        patterns = self.configs[config].get(split)
        if patterns is None:
            return None
        found: list[Path] = []
        for pattern in patterns:
            if pattern.startswith("/") or ":" in pattern or ".." in Path(pattern).parts:
                raise UserError(
                    f"{self.folder / 'README.md'} names files elsewhere: {pattern}; copy them here"
                )
            every = f"{pattern}/*" if pattern.endswith("**") else pattern
            within = (path.relative_to(self.folder) for path in self.folder.glob(every))
            found += [
                self.folder / path
                for path in sorted(within)
                if not any(is_hidden(part) for part in (path, *path.parents) if part.name)
                and not (self.folder / path).is_dir()
            ]
        if not found:
            raise UserError(
                f"{self.folder} lacks the files of split {split} of {config}: its README.md says "
                f"{', '.join(patterns)}; copy the data set whole"
            )
        # a pattern also finds the copies and the leftovers of earlier downloads
        shards = sorted((read_shard(file) for file in dict.fromkeys(found)), key=lambda s: (s.form, s.split))
        if all(one.form == "single" for one in shards):
            return [one.file for one in sorted(shards, key=lambda s: s.file)]
        if any(one.form == "single" for one in shards):
            return order_shards(shards)
        return [
            file for _, part in groupby(shards, lambda s: (s.form, s.split)) for file in order_shards([*part])
        ]


def read_card(folder: Path) -> Card:
    """The card of a folder; an empty one where there is no README.md, or no header in it.

    Raises:
        UserError: the header cannot be read.
    """
    file = folder / "README.md"
    if not file.is_file():
        return Card(folder)
    try:
        data = DatasetCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=False).data
        configs = MetadataConfigs.from_dataset_card_data(data)
        infos = DatasetInfosDict.from_dataset_card_data(data)
    except (OSError, ValueError, TypeError, YAMLError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)}); copy it again, or delete it"
        ) from error
    return Card(
        folder,
        {
            name: sanitize_patterns(config["data_files"]) if config.get("data_files") else {}
            for name, config in configs.items()
        },
        configs.get_default_config_name() if configs else None,
        {
            (name, str(split)): one.num_examples
            for name, info in infos.items()
            for split, one in (info.splits or {}).items()
            if one.num_examples
        },
    )
