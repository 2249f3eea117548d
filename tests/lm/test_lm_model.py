"""The language model against the golden outputs: forward, teacher forcing, checkpoints, sampling."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import GOLDEN

pytest.importorskip("transformers", reason="needs the lm extra")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mimo_codec import MimoError
from mimo_codec.lm import LMConfig, MimoAudioLM, Sampling
from mimo_codec.lm import checkpoint as checkpoints
from mimo_codec.lm.cache import KeyValueCache
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.lm.sampling import Settings, penalised, sample

FOLDER = GOLDEN / "lm_base"
EXPECTED = load_file(FOLDER / "expected.safetensors")
GENERATED = ("asr", "tts", "dialogue_speech_multiturn", "few_shot_speech_to_speech")


@pytest.fixture(scope="module")
def lm() -> MimoAudioLM:
    return MimoAudioLM.from_pretrained(FOLDER, device="cpu")


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_forward_equals_the_golden_outputs(lm: MimoAudioLM, name: str) -> None:
    """Float32 sums in another order than the reference's; the tolerances are those that were agreed on."""
    out = lm.forward(EXPECTED[f"prompt.{name}"])
    assert torch.allclose(out.embeddings[0], EXPECTED[f"embeds.{name}"], atol=1e-4, rtol=0)
    assert torch.allclose(out.local_hidden[0, -1], EXPECTED[f"local_hidden.{name}"], atol=1e-4, rtol=0)
    assert torch.allclose(out.text_logits[0, -1], EXPECTED[f"logits.{name}"], atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", GENERATED)
def test_teacher_forcing_predicts_what_generation_drew(lm: MimoAudioLM, name: str) -> None:
    """forward over prompt and answer: the likeliest token and codes at every new position are the answer itself."""
    prompt, answer = EXPECTED[f"prompt.{name}"].long(), EXPECTED[f"generated.{name}"].long()
    start = prompt.shape[1] // 4
    out = lm.forward(torch.cat((prompt, answer), dim=1))
    assert torch.equal(out.text_logits[0, start - 1 : -1].argmax(-1), answer[0, ::4])
    new = out.audio_positions[:, 1] >= start
    assert new.sum() == (answer[0, ::4] == lm.tokenizer.special.empty).sum() > 0
    for r, logits in enumerate(out.audio_logits):
        patches = lm.layout.patches(answer)[out.audio_positions[new, 1] - start, r]
        assert torch.equal(logits[new, :, :-1].argmax(-1), patches)


@torch.no_grad()
def test_patch_logits_equal_those_of_single_steps(lm: MimoAudioLM) -> None:
    model, c = lm.model, lm.config
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randn(3, c.local_dim, generator=generator)
    patches = torch.stack([torch.randint(0, n, (3, c.group_size), generator=generator) for n in c.codebook_sizes], 1)
    at_once = model.patch_logits(seeds, patches)
    heads = c.local_attn_heads
    cache = KeyValueCache(
        3, heads, model.num_steps, c.local_dim // heads, torch.float32, [torch.device("cpu")] * c.local_layers
    )
    steps, inputs = torch.arange(model.num_steps), seeds
    for t in range(model.num_steps):
        cache.positions = steps[t : t + 1]
        hidden = model.run_local(inputs[:, None], (steps <= t)[None, None, None], cache.positions, cache)[:, 0]
        inputs = torch.zeros(3, c.input_local_dim)
        for r, start in enumerate(c.delay_pattern):
            if start <= t < start + c.group_size:
                logits = model.local_transformer_lm_heads[r](hidden)
                assert torch.allclose(logits, at_once[r][:, t - start], atol=1e-4, rtol=0)
                inputs = inputs + model.embed_channel(r, patches[:, r, t - start])


def test_a_batch_of_padded_grids_gives_what_each_gives(lm: MimoAudioLM) -> None:
    grids = [EXPECTED[f"prompt.{name}"].long() for name in GENERATED]
    longest = max(grid.shape[1] for grid in grids)
    padded = torch.stack([torch.nn.functional.pad(grid, (0, longest - grid.shape[1]), value=0) for grid in grids])
    lengths = torch.tensor([grid.shape[1] // 4 for grid in grids])
    with torch.no_grad():
        together = lm.model(padded, lengths)
    for i, grid in enumerate(grids):
        alone, length = lm.forward(grid), int(lengths[i])
        assert torch.allclose(together.text_logits[i, :length], alone.text_logits[0], atol=1e-4)
        own = together.audio_positions[:, 0] == i
        assert torch.equal(together.audio_positions[own, 1], alone.audio_positions[:, 1])
        for one, other in zip(together.audio_logits, alone.audio_logits, strict=True):
            assert torch.allclose(one[own], other, atol=1e-4)


def test_a_list_of_grids_is_padded(lm: MimoAudioLM) -> None:
    grids = [EXPECTED[f"prompt.{name}"] for name in ("asr", "few_shot_speech_to_speech")]
    together = lm.forward(grids)
    for i, grid in enumerate(grids):
        alone = lm.forward(grid.numpy())
        assert torch.allclose(together.text_logits[i, : grid.shape[1] // 4], alone.text_logits[0], atol=1e-4)
    wrong = grids[0].clone()
    wrong[0, 0] = 416
    for ids, words in [
        ([], "empty"),
        ([grids[0], wrong], r"ids\[1\]: text tokens are out of range"),
        ([[[1, 2], [3]]], "array of integers|shape"),
    ]:
        with pytest.raises(MimoError, match=words):
            lm.forward(ids)


def test_gradients_reach_every_weight_of_a_model_with_two_local_widths() -> None:
    config = LMConfig.from_dict(
        {**LMConfig.preset("tiny").to_dict(), "input_local_dim": 16, "input_full_attention": False}
    )
    model = SpeechLanguageModel(config, empty_id=401)
    assert model.speech_embeddings_to_local.weight.shape == (32, 16)
    out = model(EXPECTED["prompt.few_shot_speech_to_speech"].long()[None])
    (out.text_logits.logsumexp(-1).sum() + sum(logits.logsumexp(-1).sum() for logits in out.audio_logits)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def keys_and_shapes(folder) -> dict:
    found = {}
    for path in folder.glob("*.safetensors"):
        if path.name != "expected.safetensors":
            with safe_open(path, "pt") as file:
                found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("shard_bytes", [None, 200_000])
def test_saving_and_loading_is_exact_and_in_the_released_layout(lm, tmp_path, monkeypatch, shard_bytes) -> None:
    if shard_bytes:
        monkeypatch.setattr(checkpoints, "SHARD_BYTES", shard_bytes)
    lm.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(shard_bytes)
    assert keys_and_shapes(tmp_path) == keys_and_shapes(FOLDER)
    original, written = (json.loads((folder / "config.json").read_text()) for folder in (FOLDER, tmp_path))
    assert {key: written[key] for key in original} == original
    again = MimoAudioLM.from_pretrained(tmp_path, device="cpu")
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in lm.model.state_dict().items())
    prompt = EXPECTED["prompt.asr"]
    assert torch.equal(again.forward(prompt).text_logits, lm.forward(prompt).text_logits)


def test_nothing_of_another_model_stays_in_the_folder(lm, tmp_path, monkeypatch) -> None:
    """Its weights would be read instead of the new ones."""
    lm.save_pretrained(tmp_path)
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 200_000)
    narrow = MimoAudioLM.from_pretrained(FOLDER, device="cpu", dtype="bfloat16", instructions="zh")
    narrow.save_pretrained(tmp_path)
    again = MimoAudioLM.from_pretrained(tmp_path, device="cpu")
    assert again.model.dtype == torch.bfloat16 and again.instructions == narrow.instructions != lm.instructions
    monkeypatch.undo()
    lm.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert MimoAudioLM.from_pretrained(tmp_path, device="cpu").instructions == lm.instructions


def test_tied_embeddings_are_one_tensor(tmp_path) -> None:
    same = load_file(FOLDER / "model.safetensors")["model.embed_tokens.weight"]
    tied = MimoAudioLM.from_pretrained(copy_of(FOLDER, tmp_path, drop="lm_head.weight", tie_word_embeddings=True))
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
    assert torch.equal(tied.model.lm_head.weight.cpu(), same)
    pytest.importorskip("accelerate", reason="needs the lm extra")
    spread = MimoAudioLM.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(spread.model.lm_head.weight.cpu(), same)
    with pytest.raises(MimoError, match="tie_word_embeddings"):
        MimoAudioLM.from_pretrained(copy_of(FOLDER, tmp_path, tie_word_embeddings=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes(lm, dtype: str) -> None:
    narrow = MimoAudioLM.from_pretrained(FOLDER, device="cpu", dtype=dtype)
    assert {p.dtype for p in narrow.model.parameters()} == {getattr(torch, dtype)}
    prompt = EXPECTED["prompt.asr"]
    wide = lm.forward(prompt).text_logits
    assert (narrow.forward(prompt).text_logits.float() - wide).abs().max() < 0.1 * wide.abs().max()
    assert narrow.generate(prompt, max_new_patches=3, greedy=True).ids.shape == (9, 12)


def copy_of(folder, tmp_path, drop: str = "", **changed):
    """The golden checkpoint with a tensor dropped, others changed, or keys of its configuration."""
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if k != drop}
    config = json.loads((folder / "config.json").read_text())
    for name, value in changed.items():
        if isinstance(value, torch.Tensor):
            tensors[name.replace("__", ".")] = value
        else:
            config[name] = value
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": "lm_head.weight"}, "missing: lm_head.weight"),
        ({"lm_head__weight": torch.zeros(3, 64)}, r"lm_head.weight \[3, 64\] instead of \[416, 64\]"),
        ({"surplus": torch.zeros(3)}, "unexpected: surplus"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"delay_pattern": "0-1-x"}, "delay_pattern"),
        ({"delay_pattern": "0-1"}, "2 values for 8"),
        ({"speech_zeroemb_idx": "0-1024-128-128-128-128-128-128"}, "speech_zeroemb_idx"),
        ({"vocab_size": 400}, "vocab_size|tokens"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_theta": 640000, "rope_type": "yarn"}}, "rope_parameters.*yarn"),
        ({"hidden_size": "64"}, "hidden_size"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, changes: dict, words: str) -> None:
    with pytest.raises(MimoError, match=words) as error:
        MimoAudioLM.from_pretrained(copy_of(FOLDER, tmp_path, **changes), device="cpu")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_keys_that_older_checkpoints_leave_out_or_shorten() -> None:
    flat = LMConfig.preset("tiny").to_dict()
    del flat["input_full_attention"]
    flat |= {"delay_pattern": 0, "speech_vocab_size": 1025, "speech_zeroemb_idx": 1024}
    config = LMConfig.from_dict(flat)
    assert config.input_full_attention is False and config.delay_pattern == (0,) * 8
    assert config.speech_vocab_size == (1025,) * 8 and config.codebook_sizes == (1024,) * 8
    assert LMConfig.from_dict({**flat, "input_full_attention": None}).input_full_attention is False


def test_what_stands_beside_the_weights_is_saved_too(tmp_path) -> None:
    folder = copy_of(FOLDER, tmp_path, torch_dtype="bfloat16")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "mine"}')
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "special_tokens_map.json").write_text("{}")  # of another model
    MimoAudioLM.from_pretrained(folder, device="cpu", dtype="float32").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "special_tokens_map.json").exists()
    assert (tmp_path / "saved" / "tokenizer_config.json").read_text() == '{"chat_template": "mine"}'
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == "float32"


def test_folders_that_are_no_language_model(tmp_path) -> None:
    for name, words in [
        (tmp_path, "no config.json"),
        (tmp_path / "nowhere", "unknown language model"),
        (GOLDEN / "codec_base", "not a MiMo-Audio language model"),
    ]:
        with pytest.raises(MimoError, match=words):
            MimoAudioLM.from_pretrained(name, device="cpu")
    with pytest.raises(MimoError, match="dtype"):
        MimoAudioLM.from_pretrained(FOLDER, dtype="int8")


def test_layers_on_several_devices(lm) -> None:
    """The disk as the second device: its layers are fetched when they are needed."""
    pytest.importorskip("accelerate", reason="needs the lm extra")
    places = {name: "cpu" for name, _ in lm.model.named_children()}
    del places["model"]
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{i}": ("disk", "cpu", "disk")[i] for i in range(3)}
    spread = MimoAudioLM.from_pretrained(FOLDER, device_map=places, device="cpu")
    assert spread.model.model.layers[0].mlp.up_proj.weight.device.type == "meta"
    prompt = EXPECTED["prompt.asr"]
    assert torch.equal(spread.forward(prompt).text_logits, lm.forward(prompt).text_logits)
    found = spread.generate(prompt, max_new_patches=24, greedy=True)
    assert torch.equal(found.ids, EXPECTED["generated.asr"].long())
    even = MimoAudioLM.from_pretrained(FOLDER, device_map="auto")
    assert torch.equal(even.forward(prompt).text_logits.cpu(), lm.forward(prompt).text_logits)
    with pytest.raises(MimoError, match='there is "auto"'):
        MimoAudioLM.from_pretrained(FOLDER, device_map="everywhere", device="cpu")
    with pytest.raises(MimoError, match="device_map"):
        MimoAudioLM.from_pretrained(FOLDER, device_map={"lm_head": "cpu"}, device="cpu")
    with pytest.raises(MimoError, match="exclude"):
        MimoAudioLM.from_pretrained(FOLDER, device_map="auto", quantize="int8")


def test_too_little_memory_says_what_would_fit(monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checkpoints, "_read", full)
    with pytest.raises(MimoError, match="GiB as bfloat16, .* GiB as int8, .* GiB as int4"):
        MimoAudioLM.from_pretrained(FOLDER, device="cpu")
    monkeypatch.undo()
    monkeypatch.setattr(SpeechLanguageModel, "to", full)  # when it is moved, after it was quantized
    with pytest.raises(MimoError, match="GiB as bfloat16"):
        MimoAudioLM.from_pretrained(FOLDER, device="cpu")


def test_weights_of_8_bits(lm, tmp_path) -> None:
    with pytest.raises(MimoError, match="int8, int4"):
        MimoAudioLM.from_pretrained(FOLDER, quantize="int2")
    pytest.importorskip("torchao", reason="needs the quantize extra")
    quantized = MimoAudioLM.from_pretrained(FOLDER, device="cpu", quantize="int8")
    prompt = EXPECTED["prompt.asr"]
    wide = lm.forward(prompt).text_logits
    assert 0 < (quantized.forward(prompt).text_logits - wide).abs().max() < 0.15 * wide.abs().max()
    assert quantized.generate(prompt, max_new_patches=3, greedy=True).ids.shape == (9, 12)
    with pytest.raises(MimoError, match="cannot be saved"):
        quantized.save_pretrained(tmp_path)
    with pytest.raises(MimoError, match="int4 needs a CUDA device, not cpu; int8 works here"):
        MimoAudioLM.from_pretrained(FOLDER, device="cpu", quantize="int4")


# ---- sampling --------------------------------------------------------------------------------------------------------


def histogram(logits: torch.Tensor, **settings: float) -> torch.Tensor:
    """Share of every token when the uniform numbers are evenly spaced."""
    count = 20_000
    uniform = (torch.arange(count) + 0.5) / count
    drawn = sample(logits.expand(count, -1), Settings.of([Sampling(**settings)] * count, "cpu"), uniform)
    return torch.bincount(drawn, minlength=len(logits)) / count


def test_shares_are_the_probabilities() -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.0])
    for temperature in (0.5, 1.0, 3.0):
        expected = (logits / temperature).softmax(0)
        assert torch.allclose(histogram(logits, temperature=temperature), expected, atol=2e-4)
    assert histogram(logits).tolist() == [0, 1, 0, 0, 0]
    top = histogram(logits, temperature=1.0, top_k=2)
    assert torch.allclose(top[[1, 3]], logits[[1, 3]].softmax(0), atol=2e-4) and top[[0, 2, 4]].sum() == 0
    p = logits.softmax(0).sort(descending=True).values
    nucleus = histogram(logits, temperature=1.0, top_p=float(p[:2].sum()) + 0.01)
    assert (nucleus > 0).tolist() == [True, True, False, True, False]  # the third is needed to reach it


def test_every_item_has_its_own_settings() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.9]]).expand(3, -1)
    settings = Settings.of([Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=1)], "cpu")
    assert sample(logits, settings, torch.tensor([0.99, 0.99, 0.99])).tolist() == [1, 0, 1]


def test_the_penalty_makes_recent_codes_less_likely() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    changed = penalised(logits, torch.tensor([[0, 1, -1]]), torch.tensor([2.0]))
    assert changed.tolist() == [[1.0, -2.0, 0.5]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"forbidden": ("a",)},
    ],
)
def test_samplings_that_are_refused(wrong: dict) -> None:
    with pytest.raises(MimoError, match=next(iter(wrong))):
        Sampling(**wrong)
