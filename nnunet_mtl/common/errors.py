"""The base class of errors that the user can correct. The message is one line: the place, the fault, the remedy."""


class UserError(ValueError):
    """Something the user gave is wrong; the command line prints its message as one line and exits with status 2."""
