"""`--help`, and the names a user may have meant."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from hired_eval.cli.arguments import check_words, is_sweep, translate_for_hydra
from hired_eval.errors import UserError, first_line, unknown
from hired_eval.paths import config_folder

INTRODUCTION = """\
Evaluate visual-token dropping in LLaVA models.

  python -m hired_eval method=hired budget=0.4 task=docvqa      one run
  python -m hired_eval -m method=full,hired task=docvqa,pope    a sweep: every combination
  python -m hired_eval -m +experiment=table3                    a table or figure of the paper (a sweep)
  python -m hired_eval method=hired --cfg job                   show the resolved config
  python -m hired_eval --config-dir FOLDER method=mine          with your own method, model or task
  hired-eval report table3                                      the report of the runs so far
  hired-eval show PICTURE --method hired --budget 0.2           what is kept of your own picture
  hired-eval plan -m +experiment=table3 precision=1             how many questions and GPU hours it will take
  hired-eval regress                                            compare with the committed reference results

Without options: HiRED with its default budget, the bundled model, DocVQA. Defaults are shown after "=".
"""

COMMANDS = ("report", "show", "plan", "regress")
NO_GROUPS = ("hydra", "regression", "report")
"""Folders of configs that a run does not choose from."""


def groups(own: Path | None = None) -> dict[str, dict[str, str]]:
    """The config groups: name -> option -> its one line.

    Args:
        own: the user's folder of configs, whose options come first in each group.
    """
    folders = sorted(p for p in config_folder().iterdir() if p.is_dir() and p.name not in NO_GROUPS)
    return {
        folder.name: {
            file.stem: _first_comment(file)
            for parent in ([own / folder.name] if own else []) + [folder]
            for file in sorted(parent.glob("*.yaml"))
        }
        for folder in folders
    }


def defaults() -> dict[str, str]:
    """What a run chooses from each group where the command line does not say."""
    listed = yaml.safe_load((config_folder() / "config.yaml").read_text())["defaults"]
    return {k: v for entry in listed if isinstance(entry, dict) for k, v in entry.items() if " " not in k}


def own_folder(arguments: list[str]) -> Path | None:
    """The user's folder of configs (`--config-dir FOLDER`), None where none is named.

    Raises:
        UserError: it is not there.
    """
    named = None
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            named = value if equals else "".join(arguments[i + 1 : i + 2])
    if named is not None and not Path(named).is_dir():
        raise UserError(
            f"--config-dir {named} is not a folder; it holds method/, model/ or task/ with configs"
        )
    return None if named is None else Path(named)


def _first_comment(file: Path) -> str:
    lines = [line for line in file.read_text().splitlines() if line.startswith("# ")]
    return next((line[2:] for line in lines if not line.startswith("# @package")), "")


def text(own: Path | None = None) -> str:
    """Every group with its options, and every single option, one line each; `own` as in `groups`."""
    lines, chosen = [INTRODUCTION], defaults()
    for group, options in groups(own).items():
        lines.append(f"{group}={chosen.get(group, '')}")
        lines += [f"  {name:<22} {description}" for name, description in options.items()]
        lines += _explained(config_folder() / group / f"{chosen.get(group)}.yaml", f"{group}.")
        lines.append("")
    lines.append("Single options:")
    return "\n".join([*lines, *_explained(config_folder() / "config.yaml")])


def _explained(file: Path, prefix: str = "") -> list[str]:
    """Each option of a config with the comment above it."""
    config = file.read_text() if file.is_file() else ""
    lines = []
    for comment, name, value in re.findall(r"^# (.+)\n(?!defaults|_)(\w+): ?(.*)$", config, re.MULTILINE):
        nested = [] if value else yaml.safe_load(config)[name].items()
        single = [f"{name}.{key}={inner}" for key, inner in nested] or [f"{name}={value}"]
        lines += [f"  {prefix + option:<22} {comment}" for option in single]
    return lines


def check_names(arguments: list[str]) -> None:
    """Refuse a name that no config has, before Hydra composes the config.

    Raises:
        UserError: naming what was asked for, and the close names that exist.
    """
    own = own_folder(arguments)
    known = groups(own)
    single = [k for k in _keys(config_folder() / "config.yaml") if k != "hydra"]
    sweep = is_sweep(arguments)
    check_words(arguments, [*known, *single, "hydra"])
    if arguments and re.fullmatch(r"\w+", arguments[0]):
        raise UserError(unknown(f"command {arguments[0]!r}", arguments[0], list(COMMANDS)))
    arguments = translate_for_hydra(arguments)
    for argument in arguments:
        if re.match(r"(experiment|variant)=", argument):
            raise UserError(f"{argument} is added to a config, not part of it; write +{argument}")
        if argument.startswith("~"):
            raise UserError(f"{argument}: an option cannot be taken away; set it to null instead")
        if "=" in argument and not argument.startswith("-"):
            _require_grammar(argument)
        if not sweep and re.fullmatch(r"\+*[\w.]+=[\w./-]+(,[\w./-]+)+", argument):
            raise UserError(f"{argument} names several values; add -m to run them all")
    chosen = defaults()
    assignments = [m for a in arguments if (m := re.fullmatch(r"\+*([\w.]+)=(.*)", a, re.DOTALL))]
    for name, value in (m.groups() for m in assignments):
        if name in known:
            for option in re.findall(r"^[\w-]+$", value.replace(",", "\n"), re.MULTILINE):
                if option not in known[name]:
                    raise UserError(unknown(f"{name} {option!r}", option, list(known[name])))
            chosen[name] = value
    if not {"experiment", "variant"}.isdisjoint(chosen):
        chosen.pop("method")  # theirs, whose options Hydra checks
    for match in assignments:
        name, _, option = match[1].partition(".")
        file = config_folder() / name / f"{chosen.get(name)}.yaml"
        if own and (own / name / file.name).is_file():
            file = own / name / file.name
        # a method of another package may have options that no config here names
        if name == "hydra" or (option and match[0].startswith("+")):
            continue
        if not option and name not in known and name not in single:
            files = {group: config_folder() / group / f"{chosen.get(group)}.yaml" for group in known}
            inside = [g for g, config in files.items() if config.is_file() and name in _keys(config)]
            if inside:
                raise UserError(f"there is no option {name!r}; did you mean {inside[0]}.{name}?")
            raise UserError(unknown(f"option {name!r}", name, [*known, *single]))
        if option and file.is_file() and option not in _keys(file):
            options = [k for k in _keys(file) if not k.startswith("_")]
            raise UserError(unknown(f"option {option!r} of {name} {chosen[name]}", option, options))


def _require_grammar(argument: str) -> None:
    """Refuse what Hydra cannot read.

    Raises:
        UserError: naming the argument.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # half a second, not for --help
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise UserError(
            f"{argument} cannot be read ({first_line(error)}); put a value with signs in quotes, "
            "e.g. 'model.prompt=\"{images} {question}\"'"
        ) from error


def _keys(file: Path) -> list[str]:
    """The options of a config, with those of the packaged configs of its group that it builds on."""
    content = yaml.safe_load(file.read_text())
    bases = [config_folder() / file.parent.name / f"{base}.yaml" for base in content.get("defaults", [])]
    inherited = [key for base in bases if base.is_file() for key in _keys(base)]
    return [key for key in dict.fromkeys([*content, *inherited]) if key != "defaults"]
