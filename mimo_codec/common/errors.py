"""The exception type for everything a user can get wrong, and a kind of it that callers can mend."""


class MimoError(ValueError):
    """Bad input, named in one line: what was wrong, where, and what to do about it."""


class ContextError(MimoError):
    """A prompt that does not fit into the context of a language model; a shorter one may."""
