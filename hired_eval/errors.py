"""Errors that a user can cause and mend."""


class UserError(Exception):
    """A mistake the user can mend: one clear line that names the cause and the remedy.

    The command line prints the message without a traceback and exits non-zero.
    """
