"""The language model by ONNX Runtime: exported once, then golden answers, batches, streams, tasks and bad input."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, Run, assert_one_line_error, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the lm extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from safetensors.numpy import load_file
from test_onnx_recording import assert_capturable

from mimo_codec import MimoCodec, MimoError
from mimo_codec.lm import MimoAudioLM, Piece, Sampling, Stop
from mimo_codec.lm import sampling as of_torch
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.onnx import OnnxAudioLM, session
from mimo_codec.onnx.lm import runtime as lm_runtime
from mimo_codec.onnx.lm import sampling as of_numpy
from mimo_codec.onnx.lm.check import check_lm
from mimo_codec.onnx.lm.export import export_lm

FOLDER = GOLDEN / "lm_base"
EXPECTED = load_file(FOLDER / "expected.safetensors")
GENERATED = ("asr", "tts", "dialogue_speech_multiturn", "few_shot_speech_to_speech")
PROMPTS = [EXPECTED[f"prompt.{name}"].astype(np.int64) for name in GENERATED]
ANSWERS = [EXPECTED[f"generated.{name}"].astype(np.int64) for name in GENERATED]
DRAWN = dict(text_sampling=Sampling(temperature=0.8, top_k=50), audio_sampling=Sampling(1.0, 0, 0.9, 1.3))


@pytest.fixture(scope="session")
def lm() -> MimoAudioLM:
    return MimoAudioLM.from_pretrained(FOLDER, device="cpu", instructions="zh")


@pytest.fixture(scope="session")
def exported(lm: MimoAudioLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "lm"
    lines: list[str] = []
    files = export_lm(lm, folder, check=lambda written: check_lm(lm, written, lines.append))
    assert "100 % of 2 x 8 greedy positions equal" in lines[0]
    assert sorted(folder.iterdir()) == files
    return folder


@pytest.fixture(scope="session")
def onnx(exported: Path) -> OnnxAudioLM:
    return OnnxAudioLM(exported, num_threads=1)


def flattened(lm: MimoAudioLM, dtype: torch.dtype = torch.float32) -> MimoAudioLM:
    """With one layer in each stack, which is quickly exported."""
    config = replace(lm.config, num_hidden_layers=1, local_layers=1, input_local_layers=1)
    model = SpeechLanguageModel(config, lm.model.empty_id).eval()
    model.load_state_dict({name: lm.model.state_dict()[name] for name in model.state_dict()})
    return MimoAudioLM(model.to(dtype), lm.tokenizer)


@pytest.fixture(scope="session")
def flat(lm: MimoAudioLM) -> MimoAudioLM:
    return flattened(lm)


def next_logits(onnx: OnnxAudioLM, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the first new position: text logits [V] and the seed of its patch [D]."""
    tokens, patches = onnx.layout.token_ids(prompt)[None], onnx.layout.patches(prompt)[None]
    inputs = {"tokens": tokens, "patches": patches, "pads": np.zeros(1, np.int64)}
    out = onnx.backbone.run({**inputs, **onnx.backbone.initial_state(1)})
    return out["logits"][0], out["seeds"][0]


# ---- greedy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(4), ids=GENERATED)
def test_golden_answers_alone(onnx: OnnxAudioLM, i: int) -> None:
    found = onnx.generate(PROMPTS[i], max_new_patches=24, greedy=True)
    assert np.array_equal(found.ids, ANSWERS[i]) and found.stop_reason == "max_new_patches"
    assert isinstance(found.ids, np.ndarray) and isinstance(found.codes.codes, np.ndarray)


@pytest.mark.parametrize("block", [512, 7], ids=["at once", "in blocks"])
def test_golden_answers_in_one_batch(onnx: OnnxAudioLM, monkeypatch, block: int) -> None:
    monkeypatch.setattr(lm_runtime, "PREFILL", block)
    for found, answer in zip(onnx.generate(PROMPTS, max_new_patches=24, greedy=True), ANSWERS, strict=True):
        assert np.array_equal(found.ids, answer)


def test_a_chat_does_not_read_again_what_it_has_read(onnx: OnnxAudioLM, monkeypatch) -> None:
    read: list[int] = []
    run = onnx.backbone.run
    monkeypatch.setattr(onnx.backbone, "run", lambda given: read.append(given["tokens"].shape[1]) or run(given))
    turns = [{"role": "user", "text": "Hello, and a few words more."}]
    options = dict(speak=False, greedy=True, max_new_patches=8, keep_cache=True)
    first = onnx.chat(turns, **options)
    turns += [{"role": "assistant", "text": first.text or "..."}, {"role": "user", "text": "And?"}]
    read.clear()
    again = onnx.chat(turns, **options)
    assert read[0] < onnx.layout.num_positions(onnx.prompt("dialogue_text", turns=turns)) // 2 + 16
    assert np.array_equal(again.ids, onnx.chat(turns, **{**options, "keep_cache": False}).ids)
    assert onnx.backend.kept is None


@pytest.mark.parametrize("i", range(4), ids=GENERATED)
def test_logits(onnx: OnnxAudioLM, lm: MimoAudioLM, i: int) -> None:
    logits, seed = next_logits(onnx, PROMPTS[i])
    expected = lm.forward(PROMPTS[i])
    assert np.abs(logits - expected.text_logits[0, -1].numpy()).max() < 1e-3
    assert np.abs(seed - expected.local_hidden[0, -1].numpy()).max() < 1e-3
    assert np.abs(logits - EXPECTED[f"logits.{GENERATED[i]}"]).max() < 1e-3


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """[out, in] to 4 bits, every 32 inputs with a scale and a zero point of their own."""
    blocks = weight.unflatten(1, (-1, 32))
    low, high = blocks.amin(2, keepdim=True).clamp(max=0), blocks.amax(2, keepdim=True).clamp(min=0)
    scale = (high - low) / 15
    zero = (-low / scale).round()
    return (((blocks / scale + zero).round().clamp(0, 15) - zero) * scale).flatten(1)


@pytest.mark.parametrize(("dtype", "most"), [("float16", 0.01), ("int4", 0.1)])
def test_narrow_weights(lm: MimoAudioLM, tmp_path: Path, capsys, dtype: str, most: float) -> None:
    """Against torch with the same weights in float32: those of bfloat16, as released, or of 4 bits, where the runtime
    also rounds inputs to 8."""
    source, wide = flattened(lm, torch.bfloat16 if dtype == "float16" else torch.float32), flattened(lm)
    wide.model.load_state_dict(source.model.state_dict())
    export_lm(source, tmp_path / "lm", dtype=dtype)
    narrow = OnnxAudioLM(tmp_path / "lm", num_threads=1)
    found, answers = (
        [item.ids for item in model.generate(PROMPTS, max_new_patches=8, greedy=True, stop=Stop(()))]
        for model in (narrow, wide)
    )
    same = np.mean([(a == b.numpy()).mean() for a, b in zip(found, answers, strict=True)])
    if dtype == "int4":
        for name, weight in wide.model.model.layers.named_parameters():
            if name.endswith("proj.weight"):
                weight.data = rounded(weight.data)
    logits = [(next_logits(narrow, p)[0], wide.forward(p).text_logits[0, -1].numpy()) for p in PROMPTS]
    error = max(np.abs(own - other).max() / np.abs(other).max() for own, other in logits)
    with capsys.disabled():
        print(f"\n{dtype}: logits differ by {error:.4f} of the largest, {same:.0%} of greedy ids are those of float32")
    assert 0 < error < most and same > 0.2 and all(ids.shape == (9, 32) for ids in found)


def test_recorded_steps_of_patches(onnx: OnnxAudioLM, exported: Path, monkeypatch, tmp_path: Path) -> None:
    """In fixed buffers as for CUDA graphs, the CPU in the place of CUDA: the same answers, alone and in a batch."""
    monkeypatch.setattr(session, "CUDA", "CPUExecutionProvider")
    recorded = OnnxAudioLM(exported, num_threads=1, cuda_graphs=True)
    for prompts, answers in (PROMPTS[:1], ANSWERS[:1]), (PROMPTS, ANSWERS):
        for found, answer in zip(recorded.generate(prompts, max_new_patches=24, greedy=True), answers, strict=True):
            assert np.array_equal(found.ids, answer)
    drawn = [model.generate(PROMPTS[0], max_new_patches=10, seed=5, **DRAWN).ids for model in (recorded, onnx)]
    assert np.array_equal(*drawn)
    steps = recorded.config.group_size + max(recorded.config.delay_pattern)
    assert recorded.patch_step.recordings is not None and recorded.backbone.recordings is None
    made = len(recorded.patch_step.recordings.made)
    assert made and made % steps == 0  # of every number of items that spoke together
    assert_capturable(exported / "patch_step.onnx", tmp_path)


# ---- drawing ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    penalty=st.sampled_from([0.7, 1.0, 1.5]),
)
def test_numpy_draws_what_torch_draws(seed: int, temperature: float, top_k: int, top_p: float, penalty: float) -> None:
    """The same logits and numbers give the same ids but where a number falls on the edge of two."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((8, 50), np.float32)
    recent, uniform = rng.integers(-1, 60, (8, 6)), rng.random(8, np.float32)
    samplings = [Sampling(), *[Sampling(temperature, top_k, top_p, penalty)] * 7]
    values = of_torch.Settings.of(samplings, "cpu")
    changed = of_torch.penalised(torch.from_numpy(logits), torch.from_numpy(recent), values.penalty)
    own = of_numpy.penalised(logits, recent, samplings)
    assert np.array_equal(own, changed.numpy())
    drawn = of_torch.sample(changed, values, torch.from_numpy(uniform)).numpy()
    assert (of_numpy.sample(own, samplings, uniform) == drawn).sum() >= 7


def test_the_same_seed_gives_the_same_tokens_in_whatever_batch(onnx: OnnxAudioLM) -> None:
    together = onnx.generate(PROMPTS, max_new_patches=10, seed=5, **DRAWN)
    for i in (0, 3):
        alone = onnx.generate(PROMPTS[i], max_new_patches=10, seed=5 + i, **DRAWN)
        assert np.array_equal(alone.ids, together[i].ids)
    other = onnx.generate(PROMPTS[0], max_new_patches=10, seed=6, **DRAWN)
    assert not np.array_equal(other.ids, together[0].ids)
    unseeded = [onnx.generate(PROMPTS[0], max_new_patches=10, **DRAWN).ids for _ in range(2)]
    assert not np.array_equal(*unseeded)


# ---- ends, streams, tasks --------------------------------------------------------------------------------------------


def test_items_end_independently(onnx: OnnxAudioLM) -> None:
    names = [onnx.tokenizer.token(int(answer[0, 4 * n])) for answer, n in zip(ANSWERS, (3, 9, 1, 5), strict=True)]
    found = onnx.generate(PROMPTS, max_new_patches=24, greedy=True, stop=Stop(tuple(names)))
    for item, answer in zip(found, ANSWERS, strict=True):
        assert np.array_equal(item.ids, answer[:, : item.ids.shape[1]])
        assert item.stop_reason in (*names, "max_new_patches")
    assert len({item.ids.shape for item in found}) > 1


def test_a_stream_is_what_comes_at_once(onnx: OnnxAudioLM) -> None:
    options = dict(max_new_patches=12, seed=3, stop=Stop(()), **DRAWN)
    at_once = onnx.generate(PROMPTS[:2], **options)
    pieces: list[Piece] = list(onnx.stream(PROMPTS[:2], **options))
    for i, whole in enumerate(at_once):
        own = [piece for piece in pieces if piece.item == i]
        assert np.array_equal(own[-1].generation.ids, whole.ids)
        assert "".join(piece.text for piece in own).strip() == whole.text
        codes = [piece.codes.codes for piece in own if piece.codes is not None]
        assert np.array_equal(np.concatenate(codes, axis=1), whole.codes.codes)


def test_tasks_with_a_codec(exported: Path, lm: MimoAudioLM, monkeypatch) -> None:
    """Whatever has the methods of a codec hears and speaks; here one whose arrays are numpy's."""
    nano = MimoCodec.from_pretrained("nano", device="cpu")

    class NumpyCodec:
        codebook_sizes, frame_rate, sample_rate = nano.codebook_sizes, nano.frame_rate, nano.sample_rate
        model_id = nano.model_id

        def encode(self, *arguments, **options):
            return nano.encode(*arguments, **options)

        def decode(self, codes):
            return nano.decode(codes).numpy()

        def decode_chunk(self, codes, state=None, last=False):
            waveform, state = nano.decode_chunk(torch.from_numpy(codes), state, last)
            return waveform.numpy(), state

    onnx = OnnxAudioLM(exported, codec=NumpyCodec(), num_threads=1)
    assert onnx.instructions == lm.instructions
    monkeypatch.setattr(NumpyCodec, "frame_rate", 50.0)
    with pytest.raises(MimoError, match="codec: nano has codebooks .* at 50 Hz"):
        OnnxAudioLM(exported, codec=NumpyCodec(), num_threads=1)
    speech = (make_speech(0.7).numpy(), 24000)
    torch_lm = MimoAudioLM(lm.model, lm.tokenizer, codec=nano, instructions=lm.instructions)
    short = dict(max_new_patches=6, greedy=True)
    assert onnx.transcribe(speech, **short).text == torch_lm.transcribe(speech, **short).text
    stop = Stop((), 0.32)
    for task, arguments in (
        ("speak", ("Hello",)),
        ("understand", (speech, "What?")),
        ("continue_speech", (speech, 0.4)),
    ):
        own, other = (getattr(model, task)(*arguments, **short) for model in (onnx, torch_lm))
        assert np.array_equal(own.ids, other.ids.numpy()) and own.codes == other.codes
        if own.waveform is not None:
            assert np.allclose(own.waveform, other.waveform.numpy(), atol=1e-5)
    turns = [{"role": "user", "audio": speech}]
    pieces = list(onnx.streaming.chat(turns, voice=speech, max_new_patches=30, seed=1, stop=stop))
    sound = [piece.waveform for piece in pieces if piece.waveform is not None]
    whole = pieces[-1].generation
    assert whole.codes is not None and len(np.concatenate(sound)) == whole.codes.num_samples == len(whole.waveform)


def test_generates_where_torch_cannot_be_imported(exported: Path) -> None:
    code = f"""
import sys
blocked = ["torch", "transformers", "onnx", "onnxscript", "einops", "safetensors"]
sys.modules.update(dict.fromkeys(blocked))
import json
import numpy as np
from mimo_codec.onnx import OnnxAudioLM
lm = OnnxAudioLM({str(exported)!r}, num_threads=1)
grid = lm.prompt("asr", audio=np.zeros((8, 8), np.int64))
print(json.dumps([lm.generate(np.array({PROMPTS[0].tolist()}), max_new_patches=24, greedy=True).ids.tolist(),
                  lm.generate(grid, max_new_patches=3, seed=0).stop_reason]))
assert not any(sys.modules[name] for name in blocked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    ids, reason = json.loads(done.stdout)
    assert ids == ANSWERS[0].tolist() and isinstance(reason, str)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_files_that_tell_what_they_are(onnx: OnnxAudioLM, lm: MimoAudioLM) -> None:
    assert onnx.config == lm.config and onnx.metadata["dtype"] == "float32"
    assert {"version", "export_id", "licence", "graphs"} <= onnx.metadata.keys()
    assert json.loads((onnx.folder / "config.json").read_text()) == lm.config.to_dict()


def test_folders_that_are_refused(exported: Path, flat: MimoAudioLM, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "backbone.onnx").write_bytes(b"nothing")
    with pytest.raises(MimoError, match="backbone.onnx: cannot be loaded"):
        OnnxAudioLM(other)
    (folder / "patch_step.onnx").unlink()
    with pytest.raises(MimoError, match="patch_step.onnx: there is no such file"):
        OnnxAudioLM(folder)
    (folder / "patch_step.onnx").write_bytes(_stamped(exported / "patch_step.onnx", export_id="0" * 16))
    with pytest.raises(MimoError, match="come from different exports"):
        OnnxAudioLM(folder)
    (folder / "patch_step.onnx").unlink()
    (folder / "patch_step.onnx").symlink_to(exported / "backbone.onnx")
    with pytest.raises(MimoError, match="is no patch_step"):
        OnnxAudioLM(folder)
    (folder / "patch_step.onnx").unlink()
    (folder / "patch_step.onnx").symlink_to(exported / "patch_step.onnx")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MimoError, match="tokenizer.json"):
        OnnxAudioLM(folder)


def _stamped(path: Path, **changes: str) -> bytes:
    """The bytes of a graph that says something else of itself."""
    import onnx

    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = json.dumps({**json.loads(entry.value), **changes})
    return model.SerializeToString()


def test_prompts_and_options_that_are_refused(onnx: OnnxAudioLM) -> None:
    for options, words in [
        ({"ids": np.tile(PROMPTS[0], (1, 38))}, "1026 positions, 3 more than fit"),
        ({"ids": PROMPTS[0][:5]}, "shape"),
        ({"ids": []}, "empty"),
        ({"max_new_patches": 0}, "max_new_patches"),
        ({"seed": [1, 2]}, "2 were given for 1"),
        ({"stop": Stop(("<|nothing|>",))}, "nothing"),
        ({"text_sampling": Sampling(forbidden=(416,))}, "416 is no text token"),
    ]:
        with pytest.raises(MimoError, match=words):
            onnx.generate(**({"ids": PROMPTS[0], "max_new_patches": 3} | options))
    with pytest.raises(MimoError, match=r"without a codec: OnnxAudioLM\(..., codec="):
        onnx.transcribe("a.wav")
    with pytest.raises(MimoError, match="providers: none"):
        OnnxAudioLM(onnx.folder, providers=["none"])


def test_exports_that_are_refused(flat: MimoAudioLM, exported: Path, tmp_path: Path, monkeypatch) -> None:
    for options, words in [({"dtype": "int2"}, "int2"), ({"opset": 99}, "opset")]:
        with pytest.raises(MimoError, match=words):
            export_lm(flat, tmp_path / "lm", **options)
    with pytest.raises(MimoError, match="overwrite"):
        export_lm(flat, exported)
    monkeypatch.setattr(flat.model, "is_quantized", True)
    with pytest.raises(MimoError, match="load the model without quantize"):
        export_lm(flat, tmp_path / "lm")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_check_leaves_nothing(flat: MimoAudioLM, tmp_path: Path, monkeypatch) -> None:
    from mimo_codec.onnx.lm import export as lm_export

    def refuse(folder: Path) -> None:
        assert (folder / "tokenizer.json").is_file()
        raise MimoError("no good")

    monkeypatch.setattr(lm_export, "GRAPHS", {})
    with pytest.raises(MimoError, match="no good"):
        export_lm(flat, tmp_path / "lm", check=refuse)
    assert list(tmp_path.iterdir()) == []


def test_the_check_finds_what_is_wrong(lm: MimoAudioLM, exported: Path) -> None:
    other = MimoAudioLM.from_pretrained(FOLDER, device="cpu", instructions="zh")
    with torch.no_grad():
        other.model.lm_head.weight += 0.05
    with pytest.raises(MimoError, match="do not do what the model does"):
        check_lm(other, exported)


@pytest.fixture
def failure(exported: Path) -> Callable[[MimoAudioLM], str]:
    """What the check says of the graphs and some model."""

    def check(model: MimoAudioLM) -> str:
        with pytest.raises(MimoError, match="do not do what the model does") as raised:
            check_lm(model, exported, lambda line: None)
        return str(raised.value)

    return check


def test_the_check_hears_every_channel(lm: MimoAudioLM, failure: Callable[[MimoAudioLM], str]) -> None:
    for head in (1, lm.config.audio_channels - 1):
        other = MimoAudioLM.from_pretrained(FOLDER, device="cpu", instructions="zh")
        with torch.no_grad():
            other.model.local_transformer_lm_heads[head].weight.neg_()
        assert "logits differ by 2.0e+00" in failure(other)


@pytest.mark.parametrize("graph", ["backbone", "patch_step"])
def test_the_check_looks_into_the_past(
    lm: MimoAudioLM, failure: Callable[[MimoAudioLM], str], monkeypatch, graph: str
) -> None:
    run_session = session.Session.run

    def forget(self: session.Session, inputs: dict) -> dict:
        found = run_session(self, inputs)
        if self.path.stem == graph:
            found["keys.1"].update_inplace(np.zeros(found["keys.1"].shape(), np.float32))
        return found

    monkeypatch.setattr(session.Session, "run", forget)
    assert "logits differ" in failure(lm)


def test_the_check_compares_greedy_answers(lm: MimoAudioLM, failure: Callable[[MimoAudioLM], str], monkeypatch) -> None:
    monkeypatch.setattr(lm_runtime, "sample", lambda logits, *_: logits.argsort(-1)[:, -2])
    assert "ids in greedy answers differ" in failure(lm)


def test_command_line_mistakes(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run("export", "lm", FOLDER, "-o", tmp_path / "x", "--dtype", "int8"), "int8", "int4")
    assert_one_line_error(run("export", "lm", tmp_path, "-o", tmp_path / "x"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_can_be_pickled(onnx: OnnxAudioLM) -> None:
    """As to send it to another process: the copy loads its graphs for itself."""
    copy = pickle.loads(pickle.dumps(onnx))
    answers = [lm.generate(PROMPTS[0], max_new_patches=3, greedy=True) for lm in (onnx, copy)]
    assert answers[0].text == answers[1].text
