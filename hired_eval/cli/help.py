"""`--help`, and the names a user may have meant."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hired_eval.cli.arguments import check_words, is_sweep, translate_for_hydra
from hired_eval.errors import UserError, first_line, unknown
from hired_eval.paths import config_folder, read_yaml
from hired_eval.runs.options import kinds
from hired_eval.typed import check_value

INTRODUCTION = """\
Evaluate visual-token dropping in vision-language models.

  python -m hired_eval method=hired budget=0.4 task=docvqa      one run
  python -m hired_eval -m method=full,hired task=docvqa,pope    a sweep: every combination
  python -m hired_eval method=hired+fastv task=docvqa           two methods, one behind the other
  python -m hired_eval -m +experiment=table3                    a table or figure of the paper (a sweep)
  python -m hired_eval method=hired --cfg job                   show the resolved config
  python -m hired_eval --config-dir FOLDER method=mine          with your own method, model or task
  python -m hired_eval method --help                            a line on every method; so with model, task
  python -m hired_eval method=random --help                     one of them with its options
  hired-eval report table3                                      the report of the runs so far
  hired-eval rank budget=0.1 group=reading                      which method is best at 10 % on reading tasks
  hired-eval report table3 --against hired                      differences to HiRED instead of full execution
  hired-eval show PICTURE method=hired budget=0.2               what is kept of your own picture
  hired-eval plan -m +experiment=table3 precision=1             how many questions and GPU hours it will take
  hired-eval compare A B                                        two runs, and the answers that flipped
  hired-eval regress                                            compare with the committed reference results
  hired-eval lmms-tasks FOLDER                                  the mini benchmarks for lmms-eval's command

What is not named has the default shown after "=".
"""
WIDTH, INDENT = 113, 28
OPTION = re.compile(r"((?:^# .+\n)*)^(\w+):", re.MULTILINE)
"""An option of a config, with the lines of the comment above it."""

COMMANDS = {
    "report": "hired_eval.reporting.__main__",
    "rank": "hired_eval.reporting.rank",
    "show": "hired_eval.cli.show",
    "plan": "hired_eval.cli.plan",
    "compare": "hired_eval.cli.compare",
    "regress": "hired_eval.regression.command",
    "lmms-tasks": "hired_eval.lmms.mini_tasks",
}
"""What the first word may say -> the module whose `main` does it."""
NO_GROUPS = ("hydra", "regression", "report")
"""Folders of configs that a run does not choose from."""
OWN = ("method", "model", "task")
"""Groups to which a user adds configs."""


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


def text(own: Path | None = None, about: Sequence[str] = ()) -> str:
    """Help on the command line, or on some of its groups.

    Args:
        own: as in `groups`.
        about: names of groups, each with every choice and the options of the default one; or `group=choice`,
            that choice with its options.

    Raises:
        UserError: a group has no such choice.
    """
    known, chosen = groups(own), defaults()
    asked = [word.partition("=") for word in about if word.partition("=")[0] in known]
    if asked:
        return "\n\n".join(_text_of_group(own, known, group, choice) for group, _, choice in asked)
    lines = [INTRODUCTION, "Choices:"]
    for group, options in known.items():
        start = f"  {group + '=' + chosen.get(group, ''):<18} "
        lines.append(
            textwrap.fill(", ".join(options), WIDTH, initial_indent=start, subsequent_indent=" " * 21)
        )
    return "\n".join([*lines, "", "Options:", *_explained(config_folder() / "config.yaml")])


def _text_of_group(own: Path | None, known: dict[str, dict[str, str]], group: str, choice: str) -> str:
    """A group with its choices, or one of them; then the options of that one or of the default."""
    options = known[group]
    if choice and choice not in options:
        raise UserError(_no_choice(group, choice, options, own))
    shown = choice or defaults().get(group, "")
    lines = [f"{group}={shown}"]
    lines += [f"  {name:<22} {line}" for name, line in options.items() if choice in ("", name)]
    files = [parent / group / f"{shown}.yaml" for parent in ((own,) if own else ()) + (config_folder(),)]
    file = next((file for file in files if file.is_file()), files[-1])
    return "\n".join([*lines, *_explained(file, f"{group}.")])


def _explained(file: Path, prefix: str = "") -> list[str]:
    """Each option of a config, and of those it builds on, with the comment above it.

    What has none is an option that the default config of the group explains.
    """
    if not file.is_file():
        return []
    usual = file.with_name(f"{defaults().get(file.parent.name)}.yaml")
    content, comments = file.read_text(), dict[str, str]()
    for source in ([usual.read_text()] if usual.is_file() else []) + [content]:
        # the first line speaks of the whole config
        found = OPTION.findall(source.split("\n", 1)[1])
        comments |= {name: " ".join(lines.replace("# ", "").split()) for lines, name in found if lines}
    config, lines = read_yaml(file), list[str]()
    for name, value in config.items():
        if name == "defaults" or name.startswith("_") or name == "hydra":
            continue
        nested = value.items() if isinstance(value, dict) else []
        single = [f"{name}.{key}={_shown(inner)}" for key, inner in nested] or [f"{name}={_shown(value)}"]
        lines += _beside([prefix + option for option in single], comments.get(name, ""))
    return [*lines, *(line for base in _bases(file, config) for line in _explained(base, prefix))]


def _beside(options: Sequence[str], comment: str) -> list[str]:
    """Options, one a line, with what is said of them to the right of the first."""
    first, *others = (f"  {option}" for option in options)
    start = f"{first:<{INDENT - 1}} "
    width = WIDTH if len(start) == INDENT else len(start + comment) + 1
    said = textwrap.wrap(comment, width, initial_indent=start, subsequent_indent=" " * INDENT)
    return [*(said or [first]), *others]


def _shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, str):
        return value.replace("\n", "\\n")
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0].replace(", ", ",")


def _bases(file: Path, config: Mapping[str, Any]) -> list[Path]:
    """The packaged configs of its group that a config builds on."""
    named = [config_folder() / file.parent.name / f"{base}.yaml" for base in config.get("defaults", [])]
    return [base for base in named if base.is_file()]


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
        if not sweep and re.fullmatch(r"\+*[\w.]+=[\w./+-]+(,[\w./+-]+)+", argument):
            raise UserError(f"{argument} names several values; {_why_several(argument)}")
    chosen = defaults()
    assignments = [m for a in arguments if (m := re.fullmatch(r"\+*([\w.]+)=(.*)", a, re.DOTALL))]
    for name, value in (m.groups() for m in assignments):
        if name in known:
            apart = r"[,+]" if name == "method" else ","
            for option in re.findall(r"^[\w-]+$", re.sub(apart, "\n", value), re.MULTILINE):
                if option not in known[name]:
                    raise UserError(_no_choice(name, option, known[name], own))
                if own and (mine := own / name / f"{option}.yaml").is_file():
                    _require_config(mine)
            chosen[name] = value
    if not {"experiment", "variant"}.isdisjoint(chosen):
        chosen.pop("method")  # theirs, whose options Hydra checks
    for match in assignments:
        name, _, option = match[1].partition(".")
        choice = chosen.get(name)
        if name == "method" and "+" in str(choice):
            part, _, own_option = option.partition(".")
            if option and part not in str(choice).split("+"):
                raise UserError(
                    f"{match[1]}: {choice} has the options of its methods; write "
                    f"method.NAME.OPTION=VALUE with NAME one of {', '.join(str(choice).split('+'))}"
                )
            choice, option = part, own_option
        file = config_folder() / name / f"{choice}.yaml"
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
            raise UserError(unknown(f"option {option!r} of {name} {choice}", option, options))


def _no_choice(group: str, choice: str, options: Iterable[str], own: Path | None) -> str:
    """What is said of a name that a group does not have."""
    needs = "; a config of your own needs --config-dir FOLDER" if own is None and group in OWN else ""
    return unknown(f"{group} {choice!r}", choice, options) + needs


def _why_several(argument: str) -> str:
    """What to do about several values for one run: a comma may be meant as a point."""
    match = re.fullmatch(r"\+*([\w.]+)=(\d,\d+)", argument)
    if match:
        name, number = match[1], match[2].replace(",", ".")
        try:
            check_value(name, kinds().get(name, Any), float(number))
        except UserError:
            pass
        else:
            return f"for a sweep add -m; a number has a point: {name}={number}"
    return "add -m to run them all"


def _require_config(file: Path) -> None:
    """Refuse a config that Hydra cannot read.

    Raises:
        UserError: naming the file.
    """
    from omegaconf import OmegaConf  # not for --help
    from omegaconf.errors import OmegaConfBaseException

    try:
        read_yaml(file, OmegaConf.create)
    except OmegaConfBaseException as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}); correct it") from error


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
    content = read_yaml(file)
    inherited = [key for base in _bases(file, content) for key in _keys(base)]
    return [key for key in dict.fromkeys([*content, *inherited]) if key != "defaults"]
