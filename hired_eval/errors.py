"""Errors that a user can cause and correct."""

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise


class UserError(Exception):
    """A mistake the user can correct: one clear line that names the cause and the remedy.

    The command line prints the message without a traceback and exits non-zero.
    """


class RefusedError(UserError):
    """A run that cannot be asked for as its config stands: nothing was begun, so that no record is left."""


class HubError(UserError):
    """What the hub has could not be fetched: a message, and whether the hub answers at all."""

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def reachable(self) -> bool:
        """The hub answers, so that something else of it may be fetched."""
        return bool(self.args[1])


def first_line(error: BaseException | None) -> str:
    """The first line of what a library says, without objects' addresses; its class where it says nothing."""
    said = re.sub(r"\s*<\S+ object at 0x\w+>", "", str(error)).strip()
    return (said or type(error).__name__).splitlines()[0]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """'there is no method 'HiRED'; did you mean hired? known: ...': what is said of a wrong name."""
    names = list(known)
    spelt = [known_name for known_name in names if known_name.lower() == name.lower()]
    near = spelt or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.8)
    close = near or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"there is no {what}; {meant}known: {', '.join(names) or 'none'}"


def refuse_spaces(words: Sequence[str]) -> None:
    """Refuse options that were typed with spaces: `budget = 0.2` and `task=docvqa, pope`.

    Args:
        words: what the shell made of the command line.

    Raises:
        UserError: naming the option, and how it is written.
    """
    for i, (word, following) in enumerate(pairwise(words)):
        value = following.removeprefix("=") or " ".join(words[i + 2 : i + 3])
        ends = re.fullmatch(r"\+*[\w./]+=", word) and not re.match(r"-|\+*[\w./]+=", following)
        if following.startswith("=") or ends:
            typed = " ".join(words[i : i + 2 + (following == "=")])
            raise UserError(
                f"{typed}: no spaces around the equals sign; write "
                f"{word.removesuffix('=')}={value or 'VALUE'}"
            )
        if "=" in word and "=" not in following and (word.endswith(",") or following.startswith(",")):
            raise UserError(f"{word} {following}: a list has no spaces; write {word}{following}")
