"""The exceptions for what a user can get wrong."""


class MimoError(ValueError):
    """Bad input, named in one line: what was wrong, where, and what to do about it."""


class ContextError(MimoError):
    """A prompt that does not fit into the context of a language model; a shorter one may."""
