"""The exceptions for what a user can get wrong."""


class MimoError(ValueError):
    """Bad input, named in one line: what was wrong, where, and what to do about it."""


class ContextError(MimoError):
    """A prompt that does not fit into the context of a language model; a shorter one may."""


class MimoWarning(UserWarning):
    """Something that the user should know of, in one line; the work goes on."""


class DamageWarning(MimoWarning):
    """A file that is cut short or damaged: what comes before that place was used. `warnings` can make it an error."""
