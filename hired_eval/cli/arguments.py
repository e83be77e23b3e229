"""What is typed behind `python -m hired_eval`, made ready for Hydra's grammar."""

from __future__ import annotations

import difflib
import re
from itertools import takewhile
from typing import Any

from hired_eval.errors import UserError, refuse_spaces
from hired_eval.models.configs import IMAGES, QUESTION
from hired_eval.paths import expand_home
from hired_eval.runs.options import kinds
from hired_eval.typed import is_path, takes_text

FLAGS = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
FLAGS_WITH_VALUE = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir")
MORE_WITH_VALUE = ("--experimental-rerun", "--info")
SHORT = ("-h", "-r", "-m", "-sc")
SHORT_WITH_VALUE = ("-c", "-p", "-cp", "-cn", "-cd", "-i")
TEXT_FLAGS = ("--question", "--prompt")
OF_RECORDS = ("report", "rank", "compare")
"""Commands that read run records, and no options of a run."""


def expand_flags(arguments: list[str]) -> list[str]:
    """The same arguments; ~ is the home folder in `--out=~/x`, which shells leave alone.

    Raises:
        UserError: there is no home folder.
    """
    return [_flag_expanded(argument) for argument in arguments]


def _flag_expanded(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--") or flag in TEXT_FLAGS or not equals:
        return argument
    return f"{flag}={expand_home(value)}"


def folders_as_flags(arguments: list[str]) -> list[str]:
    """What is typed behind a command's name; those that read records take runs_dir=FOLDER as a run does.

    Args:
        arguments: as typed, the command's name first.
    """
    flags = {"runs_dir=": "--runs-dir=", "out=": "--out="} if arguments[0] in OF_RECORDS else {}
    return [
        next((flag + word.removeprefix(name) for name, flag in flags.items() if word.startswith(name)), word)
        for word in arguments[1:]
    ]


def is_sweep(arguments: list[str]) -> bool:
    """Whether several runs are asked for."""
    return any(a in ("-m", "--multirun") or a.startswith("+experiment=") for a in arguments)


def translate_for_hydra(arguments: list[str]) -> list[str]:
    """The same arguments, paths and other texts in the quotes that Hydra's grammar asks for.

    A path, a prompt or any other text may then hold what it holds: braces, colons, commas, a number, or the
    home folder for ~, which is written out in paths alone.

    Raises:
        UserError: there is no home folder.
    """
    sweep, known = is_sweep(arguments), kinds()
    return [_quoted(argument, sweep, known) for argument in arguments]


def _quoted(argument: str, sweep: bool, known: dict[str, Any]) -> str:
    match = re.fullmatch(r"(\+*([\w.]+)=)(.*)", argument, re.DOTALL)
    if not match:
        return argument
    start, name, value = match.groups()
    path = is_path(known.get(name)) or (name.startswith("hydra.") and name.endswith("dir"))
    if path and re.fullmatch(r"(['\"])~[^'\"\\]*\1", value):
        return start + quote(expand_home(value[1:-1]))
    if value.lower() in ("", "null", "true", "false") or value[0] in "'\"" or "${" in value:
        return argument
    if name == "model.prompt":
        # a comma in a whole template is no list of prompts
        whole = not sweep or (value.count(IMAGES) == 1 and value.count(QUESTION) == 1)
        return start + quote(value) if whole else argument
    if not path and not takes_text(known.get(name)) and not value.startswith("~"):
        return argument
    if re.fullmatch(r"\w+\(.*\)", value) or ("," in value and (not sweep or re.search("['\"]", value))):
        return argument
    pieces = value.split(",")
    return start + ",".join(quote(expand_home(piece) if path else piece) for piece in pieces)


def quote(text: str) -> str:
    """A text as Hydra's grammar quotes it: a backslash counts in front of a quote alone."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{escaped}"'


def check_words(arguments: list[str], names: list[str]) -> None:
    """Refuse words that are neither `name=value` nor a flag of Hydra.

    Args:
        arguments: as typed.
        names: options and groups.

    Raises:
        UserError: naming the word, and how it was meant.
    """
    refuse_spaces(arguments)
    expecting = False
    for i, word in enumerate(arguments):
        if expecting:
            expecting = False
            continue
        before = arguments[i - 1] if i else ""
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            name = flag.lstrip("-").replace("-", "_")
            if name.partition(".")[0] in names:
                given = value or "".join(arguments[i + 1 : i + 2]) or "VALUE"
                raise UserError(f"{flag}: options have no dashes here; write {name}={given}")
            expecting = not equals and _is_flag(flag, (*FLAGS_WITH_VALUE, *MORE_WITH_VALUE), SHORT_WITH_VALUE)
            if not expecting and not _is_flag(flag, (*FLAGS, *FLAGS_WITH_VALUE), (*SHORT, *SHORT_WITH_VALUE)):
                long = difflib.get_close_matches(f"--{flag.lstrip('-')}", (*FLAGS, *FLAGS_WITH_VALUE), n=1)
                meant = f"did you mean {long[0]}? " if long else ""
                raise UserError(f"there is no flag {flag}; {meant}see python -m hired_eval --help")
        elif "=" in word or word.startswith("~"):
            continue
        elif word.partition(".")[0] in names and i + 1 < len(arguments):
            raise UserError(
                f"{word} {arguments[i + 1]}: an option needs an equals sign; write {word}={arguments[i + 1]}"
            )
        elif "=" in before:
            spread = takewhile(lambda later: not re.match(r"-|\+*[\w./]+=", later), arguments[i:])
            raise UserError(
                f"{word!r} is a word on its own after {before}; put the whole option in quotes if its value "
                f"holds spaces: '{' '.join([before, *spread])}'"
            )
        elif i == 0:
            return  # a command that does not exist
        else:
            close = difflib.get_close_matches(word.lower(), names, n=1)
            raise UserError(
                f"{word!r} is not an option; write NAME=VALUE" + (f", e.g. {close[0]}=VALUE" if close else "")
            )


def _is_flag(flag: str, long: tuple[str, ...], short: tuple[str, ...]) -> bool:
    return flag in short or (len(flag) > 3 and any(name.startswith(flag) for name in long))
