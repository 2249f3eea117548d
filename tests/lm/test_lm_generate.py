"""Generation: golden answers, batches, seeds, ends, streams; and the tasks with a codec."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GOLDEN, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from safetensors.torch import load_file

from mimo_codec import AudioCodes, MimoCodec, MimoError, save_audio
from mimo_codec.lm import Generation, MimoAudioLM, Piece, Sampling, Stop
from mimo_codec.lm.tokenizer import TextTokenizer

FOLDER = GOLDEN / "lm_base"
EXPECTED = load_file(FOLDER / "expected.safetensors")
GENERATED = ("asr", "tts", "dialogue_speech_multiturn", "few_shot_speech_to_speech")
PROMPTS = [EXPECTED[f"prompt.{name}"].long() for name in GENERATED]
ANSWERS = [EXPECTED[f"generated.{name}"].long() for name in GENERATED]
DRAWN = dict(text_sampling=Sampling(temperature=0.8, top_k=50), audio_sampling=Sampling(1.0, 0, 0.9, 1.3))


@pytest.fixture(scope="module")
def lm() -> MimoAudioLM:
    return MimoAudioLM.from_pretrained(FOLDER, device="cpu")


@pytest.fixture(scope="module")
def speaking(lm: MimoAudioLM) -> MimoAudioLM:
    """With a codec, and a liking for audio, so that short answers have some."""
    copy = MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec="nano")
    with torch.no_grad():
        copy.model.lm_head.weight[copy.tokenizer.special.empty] *= 3
    return copy


# ---- greedy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(4), ids=GENERATED)
def test_golden_answers_alone(lm: MimoAudioLM, i: int) -> None:
    found = lm.generate(PROMPTS[i], max_new_patches=24, greedy=True)
    assert torch.equal(found.ids, ANSWERS[i]) and found.stop_reason == "max_new_patches"


def test_golden_answers_in_one_batch(lm: MimoAudioLM) -> None:
    for found, answer in zip(lm.generate(PROMPTS, max_new_patches=24, greedy=True), ANSWERS, strict=True):
        assert torch.equal(found.ids, answer)


@pytest.mark.slow
def test_golden_answers_compiled(lm: MimoAudioLM) -> None:
    """And drawn ones: the same tokens for the same seed."""
    compiled = MimoAudioLM.from_pretrained(FOLDER, device="cpu", compile=True)
    for found, answer in zip(compiled.generate(PROMPTS, max_new_patches=24, greedy=True), ANSWERS, strict=True):
        assert torch.equal(found.ids, answer)
    drawn = dict(max_new_patches=12, seed=1, stop=Stop(()), **DRAWN)
    one, other = (model.generate(PROMPTS, **drawn) for model in (compiled, lm))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))


def test_without_a_compiler_generation_goes_on(lm: MimoAudioLM, monkeypatch, caplog) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch.compiler.reset()
    compiled = MimoAudioLM.from_pretrained(FOLDER, device="cpu", compile=True)
    found, again = (compiled.generate(PROMPTS[0], max_new_patches=2, greedy=True) for _ in range(2))
    assert torch.equal(found.ids, ANSWERS[0][:, :8]) and torch.equal(again.ids, found.ids)
    warnings = [r.message for r in caplog.records if r.name == "mimo_codec.lm.backend"]
    assert 1 <= len(warnings) <= 2 and all("no-such-compiler" in line for line in warnings)
    torch.compiler.reset()


def test_eight_prompts_of_different_tasks_are_each_as_if_alone(speaking: MimoAudioLM) -> None:
    names = [key for key in EXPECTED if key.startswith("prompt.")][:8]
    prompts = [EXPECTED[name].long() for name in names]
    together = speaking.generate(prompts, max_new_patches=12, greedy=True)
    for prompt, found in zip(prompts, together, strict=True):
        alone = speaking.generate(prompt, max_new_patches=12, greedy=True)
        assert torch.equal(found.ids, alone.ids) and found.text == alone.text
        assert found.codes == alone.codes and found.stop_reason == alone.stop_reason


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens_in_whatever_batch(speaking: MimoAudioLM) -> None:
    together = speaking.generate(PROMPTS, max_new_patches=10, seed=[5, 6, 7, 8], **DRAWN)
    assert [a.ids.tolist() for a in together] == [
        a.ids.tolist() for a in speaking.generate(PROMPTS, max_new_patches=10, seed=5, **DRAWN)
    ]
    for i in (0, 3):
        alone = speaking.generate(PROMPTS[i], max_new_patches=10, seed=5 + i, **DRAWN)
        assert torch.equal(alone.ids, together[i].ids)
    other = speaking.generate(PROMPTS[0], max_new_patches=10, seed=6, **DRAWN)
    assert not torch.equal(other.ids, together[0].ids)
    unseeded = [speaking.generate(PROMPTS[0], max_new_patches=10, **DRAWN).ids for _ in range(2)]
    assert not torch.equal(*unseeded)


def test_items_have_their_own_settings(lm: MimoAudioLM) -> None:
    mixed = lm.generate(
        PROMPTS[:2],
        max_new_patches=6,
        seed=0,
        text_sampling=[Sampling(), DRAWN["text_sampling"]],
        audio_sampling=[Sampling(), DRAWN["audio_sampling"]],
    )
    assert torch.equal(mixed[0].ids, ANSWERS[0][:, :24])
    alone = lm.generate(PROMPTS[1], max_new_patches=6, seed=1, **DRAWN)
    assert torch.equal(mixed[1].ids, alone.ids)


def test_forbidden_tokens_are_not_drawn(lm: MimoAudioLM) -> None:
    first = int(ANSWERS[0][0, 0])
    found = lm.generate(PROMPTS[0], max_new_patches=8, text_sampling=Sampling(forbidden=(first,)))
    assert first not in found.ids[0]
    assert all(0 <= row.max() < size for row, size in zip(found.ids[1:], lm.config.speech_vocab_size, strict=True))


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_items_end_independently(lm: MimoAudioLM) -> None:
    """At tokens that the golden answers have at different places."""
    names = [lm.tokenizer.token(int(answer[0, 4 * place])) for answer, place in zip(ANSWERS, (3, 9, 1, 5), strict=True)]
    found = lm.generate(PROMPTS, max_new_patches=24, greedy=True, stop=Stop(tuple(names)))
    ids = [lm.tokenizer.token_id(name) for name in names]
    for item, answer in zip(found, ANSWERS, strict=True):
        first = next((n for n, token in enumerate(answer[0, ::4].tolist()) if token in ids), 23)
        assert torch.equal(item.ids, answer[:, : 4 * (first + 1)])
        assert item.stop_reason in (*names, "max_new_patches")
    assert len({item.ids.shape for item in found}) > 1


def test_seconds_of_audio_and_the_context_are_limits(speaking: MimoAudioLM) -> None:
    found = speaking.generate(PROMPTS[1], max_new_patches=60, greedy=True, stop=Stop((), 0.48))
    assert found.codes is not None and found.codes.num_frames == 12 and found.stop_reason == "max_seconds"
    long = PROMPTS[0].repeat(1, 37)  # 999 positions of a context of 1024
    found = speaking.generate(long, max_new_patches=60, greedy=True, stop=Stop(()))
    assert found.ids.shape == (9, 4 * 25) and found.stop_reason == "context"
    with pytest.raises(MimoError, match="1026 positions, 3 more than fit"):
        speaking.generate(PROMPTS[0].repeat(1, 38), max_new_patches=1)


def test_what_is_refused(lm: MimoAudioLM) -> None:
    for given, words in [
        ({"ids": PROMPTS[0][:5]}, "shape"),
        ({"ids": []}, "empty"),
        ({"ids": [PROMPTS[0], PROMPTS[1][:, :3]]}, r"ids\[1\]"),
        ({"max_new_patches": 0}, "max_new_patches"),
        ({"seed": -1}, "seed"),
        ({"seed": [1, 2]}, "2 were given for 1"),
        ({"text_sampling": [Sampling()] * 2}, "text_sampling"),
        ({"stop": Stop(("<|nothing|>",))}, "nothing"),
    ]:
        with pytest.raises(MimoError, match=words):
            lm.generate(**({"ids": PROMPTS[0], "max_new_patches": 3} | given))
    with pytest.raises(MimoError, match="tuple"):
        Stop("<|im_end|>")  # type: ignore[arg-type]


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_what_comes_at_once(speaking: MimoAudioLM) -> None:
    options = dict(max_new_patches=16, seed=3, stop=Stop(()), **DRAWN)
    at_once = speaking.generate(PROMPTS, **options)
    pieces: list[Piece] = list(speaking.stream(PROMPTS, **options))
    for i, whole in enumerate(at_once):
        own = [piece for piece in pieces if piece.item == i]
        last = own[-1].generation
        assert last is not None and torch.equal(last.ids, whole.ids) and last.text == whole.text
        assert "".join(piece.text for piece in own).strip() == whole.text
        assert whole.codes is not None and whole.waveform is not None and len(own) > 2
        codes = torch.cat([torch.as_tensor(piece.codes.codes) for piece in own if piece.codes], dim=1)
        assert torch.equal(codes, torch.as_tensor(whole.codes.codes))
        waveform = torch.cat([piece.waveform for piece in own if piece.waveform is not None])
        assert torch.allclose(waveform, whole.waveform, atol=1e-5) and torch.equal(waveform, last.waveform)
        assert len(waveform) == whole.codes.num_samples


def test_a_stream_yields_before_it_is_complete(speaking: MimoAudioLM) -> None:
    stream = speaking.stream(PROMPTS[0], max_new_patches=1000, greedy=True)
    assert next(stream).generation is None
    assert not torch.is_inference_mode_enabled()


def test_streams_side_by_side_do_not_disturb_each_other(lm: MimoAudioLM) -> None:
    streams = [lm.stream(PROMPTS[i], max_new_patches=24, greedy=True) for i in (0, 1, 0)]
    last: dict[int, Generation] = {}
    next(streams[2])
    streams[2].close()  # left alone in the middle
    going = streams[:2]
    while going:
        for i, stream in enumerate(streams[:2]):
            piece = next(stream, None) if stream in going else None
            if piece is None and stream in going:
                going.remove(stream)
            if piece is not None and piece.generation is not None:
                last[i] = piece.generation
    assert torch.equal(last[0].ids, ANSWERS[0]) and torch.equal(last[1].ids, ANSWERS[1])


# ---- tasks -----------------------------------------------------------------------------------------------------------

SHORT = dict(max_new_patches=12, seed=0)


def check_audio(found: Generation) -> None:
    assert found.codes is not None and found.waveform is not None
    assert found.codes.num_quantizers == 8 and found.waveform.shape == (found.codes.num_samples,)
    assert found.waveform.isfinite().all()


def test_tasks_that_answer_in_text(speaking: MimoAudioLM, tmp_path) -> None:
    speech = make_speech(0.7)
    save_audio(tmp_path / "a.wav", speech, 24000)
    codes = speaking.codec.encode(speech, 24000)
    codes.save(tmp_path / "a.mimo")
    heard = [tmp_path / "a.wav", tmp_path / "a.mimo", codes, (speech, 24000)]
    texts = [speaking.transcribe(audio, **SHORT) for audio in heard]
    assert texts[0].text and texts[0].codes is None and texts[0].waveform is None
    assert texts[1].text == texts[2].text == texts[3].text
    for found in (
        speaking.understand(codes, "What is it?", thinking=True, **SHORT),
        speaking.chat([{"role": "user", "text": "Hello"}], speak=False, **SHORT),
        speaking.chat([{"role": "user", "audio": codes}], speak=False, thinking=True, **SHORT),
        speaking.few_shot("Copy.", [{"input_text": "a", "output_text": "b"}], text="c", speak=False, **SHORT),
    ):
        assert found.codes is None and found.ids.shape[0] == 9


def test_tasks_that_speak(speaking: MimoAudioLM) -> None:
    codes = speaking.codec.encode(make_speech(0.7), 24000)
    example = {"input_audio": codes, "output_audio": codes, "output_text": "hello"}
    for found in (
        speaking.speak("Hello", **SHORT),
        speaking.speak("Hello", "calm", codes, **SHORT),
        speaking.chat([{"role": "user", "audio": codes}], voice=codes, **SHORT),
        speaking.few_shot("Copy.", [example], codes, **SHORT),
        speaking.continue_speech(codes, 0.5, **SHORT),
    ):
        check_audio(found)
    again = speaking.streaming.speak("Hello", **SHORT)
    assert [piece.generation for piece in again][-1].waveform.shape == speaking.speak("Hello", **SHORT).waveform.shape


def script(monkeypatch, answer: list[int]) -> None:
    """Let the model write these text tokens, until one ends the item."""
    from mimo_codec.lm import base
    from mimo_codec.lm.generate import Progress

    def written(backend, requests, layout):
        progress = Progress([replace(request, max_new=len(answer)) for request in requests], layout)
        for token in answer:
            yield progress.add(np.full(len(requests), token), progress.empty_patches(len(requests)))
            if progress.ended:
                return

    monkeypatch.setattr(base, "generate_positions", written)


def without_marks(lm: MimoAudioLM) -> MimoAudioLM:
    """With a tokenizer to which <think> and </think> are plain text, as those of Qwen2 and Qwen2.5 are."""
    from tokenizers import Tokenizer

    content = json.loads(lm.tokenizer.tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if "think" not in t["content"]]
    return MimoAudioLM(lm.model, TextTokenizer(Tokenizer.from_str(json.dumps(content))))


@pytest.mark.parametrize("marks", ["tokens", "text"])
def test_thoughts_are_told_from_the_answer(lm: MimoAudioLM, monkeypatch, marks: str) -> None:
    model = lm if marks == "tokens" else without_marks(lm)
    think = model.tokenizer.tokenizer.token_to_id("</think>")
    assert (think is None) == (marks == "text")
    mark = [think] if marks == "tokens" else model.tokenizer._encode("</think>")
    script(monkeypatch, model.tokenizer.encode("so it is") + mark + model.tokenizer.encode("\nyes < no"))
    audio = np.zeros((8, 8), np.int64)
    found = model.understand(audio, "Is it?", thinking=True)
    assert found.thoughts == "so it is" and found.text == "yes < no"
    pieces = list(model.streaming.understand(audio, "Is it?", thinking=True))
    assert "".join(piece.thoughts for piece in pieces) == "so it is"
    assert "".join(piece.text for piece in pieces) == "\nyes < no" and len(pieces) > 4
    at_once = model.understand(audio, "Is it?")  # the prompt has closed the thoughts
    assert at_once.text.startswith("so it is") and at_once.thoughts is None


def test_strings_that_end_an_answer(lm: MimoAudioLM, monkeypatch) -> None:
    """The examples of few_shot are parted by an empty line, and so is what a base model writes after its answer."""
    script(monkeypatch, lm.tokenizer.encode("\n\nBlue. \n\nNext question\nGreen."))
    examples = [{"input_text": "a", "output_text": "b"}]
    found = lm.few_shot("Answer.", examples, text="c", speak=False)
    assert found.text == "Blue." and found.stop_reason == "\n\n"
    pieces = list(lm.streaming.few_shot("Answer.", examples, text="c", speak=False))
    assert "".join(piece.text for piece in pieces).strip() == "Blue."
    found = lm.few_shot("Answer.", examples, text="c", speak=False, stop=Stop(text=("question", "Next")))
    assert found.text == "Blue." and found.stop_reason == "Next"
    assert "Green." in lm.few_shot("Answer.", examples, text="c", speak=False, stop=Stop()).text
    for wrong in ("Next", ("",), (5,)):
        with pytest.raises(MimoError, match="stop: a tuple of strings"):
            Stop(text=wrong)  # type: ignore[arg-type]


def test_what_was_streamed_is_not_decoded_again(speaking: MimoAudioLM, monkeypatch) -> None:
    monkeypatch.setattr(speaking.codec, "decode", lambda codes: pytest.fail("decoded once more"))
    *pieces, last = speaking.streaming.speak("Hello", **SHORT)
    assert last.generation is not None and last.waveform is None and pieces[-1].waveform is not None
    check_audio(last.generation)


def test_out_of_memory_says_what_was_asked_for(lm: MimoAudioLM, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lm.backend, "take_cache", full)
    with pytest.raises(MimoError, match=r"not enough memory on cpu to generate: 2 at once, up to \d+ positions each"):
        lm.generate(PROMPTS[:2], max_new_patches=5)
    monkeypatch.setattr(MimoCodec, "to", full)
    with pytest.raises(MimoError, match="codec: not enough memory on cpu for nano"):
        MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec="nano")


def test_audio_that_tasks_refuse(lm: MimoAudioLM, speaking: MimoAudioLM, tmp_path) -> None:
    codes = speaking.codec.encode(make_speech(0.7), 24000)
    other = AudioCodes(codes.codes, codes.num_samples, 24000, 25.0, codes.codebook_sizes, "other@00000000")
    recorded = MimoAudioLM(lm.model, lm.tokenizer)
    recorded.reader.config = replace(lm.config, extra={"codec": "nano@aaaaaaaa"})
    for call, words in [
        (lambda: speaking.speak("Hello", voice=codes[:0.15]), "0.16 s is too short"),
        (lambda: speaking.transcribe(other), "other@00000000"),
        (lambda: speaking.transcribe(tmp_path / "none.wav"), "none.wav"),
        (lambda: speaking.transcribe((make_speech(1),)), "sample rate"),
        (lambda: speaking.speak(" "), "empty"),
        (lambda: speaking.chat([{"role": "user", "txt": "a"}]), r"turns\[0\].*txt"),
        (lambda: speaking.chat(["hello"]), r"turns\[0\]"),
        (lambda: speaking.chat([{"role": "user", "text": "a"}], thinking=True), "speak=False"),
        (lambda: speaking.run("singing", {}), "task 'singing' is not known; choose one of asr, "),
        (lambda: speaking.run("asr", {}), "asr: missing"),
        (lambda: speaking.transcribe(None), "audio: is a NoneType; a file, codes or"),
        (lambda: speaking.transcribe(7), "audio: is a int; a file, codes or"),
        (lambda: speaking.chat(None, speak=False), "turns: a list"),
        (lambda: speaking.few_shot("Do it.", None, codes), "examples: a list is needed, not None"),
        (lambda: speaking.speak("Hello", stop=("<|im_end|>",)), "stop must be a Stop"),
        (lambda: speaking.continue_speech(codes, stop=("<|im_end|>",)), "stop must be a Stop"),
        (lambda: speaking.transcribe(codes, text_sampling=0.5), "text_sampling: a Sampling is needed .* not 0.5"),
        (lambda: speaking.speak("Hello", audio_sampling=[Sampling()] * 2), "audio_sampling: a Sampling is needed"),
        (lambda: Sampling(forbidden=5), "forbidden: a tuple of integers"),  # type: ignore[arg-type]
        (lambda: Stop(5), "token names"),  # type: ignore[arg-type]
        (lambda: speaking.chat([{"role": "user", "text": "a"}], system=5, speak=False), "system must be text, not 5"),
        (lambda: speaking.run("tts", {"text": "a", "instruction": ""}), "instruction: is empty"),
        (lambda: recorded.transcribe(other), "codes of other@00000000; this model's codec is nano@aaaaaaaa"),
        (lambda: speaking.speak("Hello", stop=Stop((5,))), "token names"),  # type: ignore[arg-type]
        (lambda: speaking.generate(PROMPTS[0], max_new_patches=1, text_sampling=0.5), "text_sampling: a Sampling"),
        (lambda: speaking.forward(np.zeros((9, 4 * 1025), np.int64)), "1025 positions; the context has 1024"),
        (lambda: lm.transcribe(tmp_path / "a.wav"), "without a codec"),
        (lambda: lm.continue_speech(np.zeros((8, 3), np.int64)), "shorter than a patch"),
    ]:
        with pytest.raises(MimoError, match=words):
            call()


def test_limits_in_seconds(speaking: MimoAudioLM) -> None:
    """Whole patches of 0.16 s, whatever the rounding of floats; `continue_speech` keeps to both limits it is given."""
    for patches in (29, 57, 58):
        [request] = speaking._requests(PROMPTS[0], 99, stop=Stop(max_seconds=patches * 0.16))
        assert request.max_patches == patches
    codes = speaking.codec.encode(make_speech(0.7), 24000)
    for limit, seconds in ((0.16, 0.16), (None, 0.32)):
        found = speaking.continue_speech(codes, 0.32, stop=Stop((), limit), seed=0)
        assert found.stop_reason == "<|eosp|>" or found.codes.duration == pytest.approx(seconds)


def test_turns_are_encoded_once(speaking: MimoAudioLM, monkeypatch) -> None:
    calls = []
    encode = speaking.codec.encode
    monkeypatch.setattr(speaking.codec, "encode", lambda *args, **options: calls.append(1) or encode(*args, **options))
    turns = [{"role": "user", "audio": (make_speech(0.3), 24000)}]
    speaking.chat(turns, speak=False, max_new_patches=1, seed=0)
    assert len(calls) == 1


def test_a_codec_that_does_not_fit(lm: MimoAudioLM) -> None:
    from mimo_codec import CodecConfig

    codec = MimoCodec(CodecConfig.preset("tiny").replace(codebook_size=[64] * 8))
    with pytest.raises(MimoError, match="codebooks of"):
        MimoAudioLM(lm.model, lm.tokenizer, codec=codec)
