"""What `mimo-codec generate` never writes over: the recordings that it hears."""

from __future__ import annotations

import pytest
from conftest import GOLDEN, assert_one_line_error, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import save_audio


@pytest.mark.parametrize("output", ["talk.wav", "talk.mimo", "TALK.WAV", "link.txt", "notes.rst"])
def test_a_recording_is_never_replaced_by_text(run, output, tmp_path):
    """Neither by its name nor by a link to it; a text file ends in .txt or .md."""
    talk = tmp_path / "talk.wav"
    save_audio(talk, make_speech(0.5), 24000)
    before = talk.read_bytes()
    if output == "link.txt":
        (tmp_path / output).symlink_to(talk)
    done = run("generate", "transcribe", talk, "-m", GOLDEN / "lm_base", "-o", tmp_path / output, "--overwrite")
    assert_one_line_error(done, output)
    assert talk.read_bytes() == before


def test_an_answer_never_replaces_an_input(run, tmp_path):
    talk = tmp_path / "talk.wav"
    save_audio(talk, make_speech(0.5), 24000)
    for words in (("continue", talk), ("speak", "hello", "--voice", talk), ("dialogue", talk)):
        done = run("generate", *words, "-m", GOLDEN / "lm_base", "-o", talk, "--overwrite")
        assert_one_line_error(done, "is an input and would be overwritten")
