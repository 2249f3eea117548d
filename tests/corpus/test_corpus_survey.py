"""What the report gathers of the segments."""

from __future__ import annotations

import pytest

from mimo_codec.corpus.survey import Survey


def row(number: int) -> dict:
    return {
        "id": number,
        "seconds": 36.0,
        "speaker": "ab"[number % 2] if number % 4 else None,
        "text": "x" * (number % 3),
    }


def test_hours_values_and_texts():
    survey = Survey(["speaker"], ["seconds", "snr_db"], 3)
    for number in range(8):
        survey.add(row(number))
    assert (survey.num_rows, survey.num_texts) == (8, 5) and list(survey.values["seconds"]) == [36.0] * 8
    assert dict(survey.hours["speaker"]) == pytest.approx({None: 0.02, "b": 0.04, "a": 0.02})
    assert not survey.values["snr_db"], "what is not known of any row"


def test_every_row_is_as_likely_to_be_drawn():
    survey = Survey([], [], 200)
    for number in range(2000):
        survey.add(row(number))
    drawn = [found["id"] for found in survey.drawn]
    assert len(set(drawn)) == 200 and 800 < sum(drawn) / 200 < 1200
    few = Survey([], [], 10)
    few.add(row(0))
    assert [found["id"] for found in few.drawn] == [0]
