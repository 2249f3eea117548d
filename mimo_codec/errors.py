"""The one exception type for everything a user can get wrong."""


class MimoError(ValueError):
    """Bad input, named in one line: what was wrong, where, and what to do about it."""
