"""The base of every error that is the user's to mend: one line that names the place and the remedy."""


class UserError(ValueError):
    """Something the user gave is wrong; the command line prints its message as one line and exits with status 2."""
