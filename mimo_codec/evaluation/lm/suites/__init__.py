"""The suites, and the table that lists them."""

from __future__ import annotations

from collections.abc import Mapping

from mimo_codec.common.checks import check_choice
from mimo_codec.evaluation.lm.suite import Suite
from mimo_codec.evaluation.lm.suites.continuation import Continuation
from mimo_codec.evaluation.lm.suites.custom import Custom
from mimo_codec.evaluation.lm.suites.mmau import MMAU
from mimo_codec.evaluation.lm.suites.recognition import Recognition
from mimo_codec.evaluation.lm.suites.speech_to_speech import (
    Denoising,
    RateConversion,
    StyleConversion,
    Translation,
    VoiceConversion,
)
from mimo_codec.evaluation.lm.suites.speechmmlu import SpeechMMLU
from mimo_codec.evaluation.lm.suites.synthesis import Synthesis

SUITES: Mapping[str, type[Suite]] = {
    kind.name: kind
    for kind in (
        SpeechMMLU,
        MMAU,
        VoiceConversion,
        RateConversion,
        StyleConversion,
        Denoising,
        Translation,
        Recognition,
        Synthesis,
        Continuation,
        Custom,
    )
}
"""Name -> suite; a new suite is a row here."""


def find_suite(name: str) -> type[Suite]:
    """Return a suite by its name; MimoError lists those there are."""
    return SUITES[check_choice("suite", name, SUITES)]
