"""The shared checks: what they let pass, and what their errors say."""

import json
import math

import numpy as np
import pytest

from mimo_codec.common.checks import (
    check_choice,
    check_count,
    check_integer,
    check_number,
    check_type,
    error_prefix,
    needs_extra,
    require,
    wrap_errors,
)
from mimo_codec.common.errors import ContextError, MimoError


def test_numbers_of_numpy_become_those_of_python():
    assert (
        type(check_integer("n", np.int32(3), 1, 3)) is int and type(check_number("x", np.float32(0.5), 0, 1)) is float
    )
    assert check_number("x", 2, 0, math.inf) == 2.0 and check_count(np.int64(8), 8) == 8


@pytest.mark.parametrize("value", [True, "3", None, 2.0, 0, 4, np.bool_(True)])
def test_integers_that_are_none_are_named(value):
    with pytest.raises(MimoError, match="^size must be an integer from 1 to 3, not "):
        check_integer("size", value, 1, 3)
    with pytest.raises(MimoError, match=r"this model has 3 codebooks, ask for 1\.\.3$"):
        check_count(value, 3)


@pytest.mark.parametrize("value", [True, "3", None, math.nan, -0.1, math.inf, 1j])
def test_numbers_that_are_none_are_named(value):
    with pytest.raises(MimoError, match="^share must be a number from 0 to 1, not "):
        check_number("share", value, 0, 1)


def test_values_without_an_upper_limit():
    assert check_integer("n", 10**30, 1) == 10**30 and check_number("x", math.inf, 0) == math.inf
    with pytest.raises(MimoError, match="^n must be an integer of at least 1, not 0$"):
        check_integer("n", 0, 1)


def test_long_values_are_shortened():
    with pytest.raises(MimoError) as caught:
        check_integer("size", "x" * 10_000, 1, 3)
    assert len(str(caught.value)) < 100


def test_choices_and_types():
    assert check_choice("format", "wav", {"wav": 1}) == "wav" and check_type("name", "a", str, "text") == "a"
    with pytest.raises(MimoError, match="^format 'mp4' is not known; choose one of wav, flac$"):
        check_choice("format", "mp4", ["wav", "flac"])
    with pytest.raises(MimoError, match="^name must be text, not 3$"):
        check_type("name", 3, str, "text")


def test_require_raises_its_message():
    require([0], "never")
    with pytest.raises(MimoError, match="^empty$"):
        require([], "empty")


def test_errors_of_others_are_one_line_with_the_reason():
    with pytest.raises(MimoError) as caught, wrap_errors("a.wav: cannot be read", OSError):
        raise FileNotFoundError(2, "No such file or directory", "a.wav")
    assert str(caught.value) == "a.wav: cannot be read: No such file or directory"
    with pytest.raises(MimoError, match="^a: not valid: one$"), wrap_errors("a: not valid", ValueError):
        raise ValueError("one\ntwo")
    with pytest.raises(MimoError, match="^a: not valid: KeyError$"), wrap_errors("a: not valid", LookupError):
        raise KeyError
    with pytest.raises(MimoError, match="^a: not valid: Expecting value"), wrap_errors("a: not valid", ValueError):
        json.loads("")


def test_other_errors_and_our_own_pass():
    with pytest.raises(KeyError), wrap_errors("never", ValueError):
        raise KeyError
    with pytest.raises(MimoError, match="^as it was$"), wrap_errors("never", ValueError):
        raise MimoError("as it was")


def test_a_prefix_keeps_the_kind_of_error():
    with pytest.raises(ContextError, match="^a.json: too long$"), error_prefix("a.json"):
        raise ContextError("too long")


def test_missing_packages_name_the_command():
    command = r"^nothing is not installed: pip install 'mimo-codec\[lm\]'$"
    with pytest.raises(MimoError, match=command), needs_extra("nothing", "lm"):
        import no_such_package_anywhere
    command = "^nothing is not installed: pip install nothing$"
    with pytest.raises(MimoError, match=command), needs_extra("nothing", "pip install nothing"):
        import no_such_package_anywhere  # noqa: F401
