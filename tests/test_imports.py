"""Imports run one way, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mimo_codec

ROOT = Path(mimo_codec.__file__).parent
PACKAGE = "mimo_codec"

# What each module of the core may import from the package: the order of the data flow, and nothing that comes later.
BASE = {"errors"}
VALUES = BASE | {"checks", "files"}
FRONT = BASE | {"config", "precision"}
LAYERS = FRONT | {"transformer"}
ALLOWED = {
    "__init__": {"lazy"},
    "lazy": set(),
    "errors": set(),
    "checks": BASE,
    "files": BASE,
    "precision": set(),
    "config": BASE | {"files"},
    "bitstream": BASE | {"checks"},
    "arrays": set(),
    "codes": VALUES | {"arrays", "bitstream"},
    "interface": VALUES | {"codes"},
    "resampling": BASE | {"arrays"},
    "audio": BASE | {"arrays", "files", "resampling"},
    "mel": FRONT | {"transformer"},
    "transformer": FRONT,
    "processes": set(),
    "quantizer": FRONT | {"checks", "processes"},
    "encoder": LAYERS,
    "vocoder": LAYERS,
    "decoder": LAYERS | {"vocoder"},
    "weights": BASE,
    "checkpoint": BASE | {"config", "files", "weights"},
    "codec": LAYERS
    | {"audio", "checkpoint", "codes", "decoder", "encoder", "interface", "mel", "quantizer", "resampling", "vocoder"},
}
TORCH_FREE = ("lazy", "errors", "checks", "files", "jobs", "config", "weights", "bitstream", "arrays", "codes",
              "interface", "resampling", "audio", "onnx.recording", "onnx.session", "onnx.runtime", "lm.config",
              "lm.layout", "lm.prompts", "lm.tokenizer", "lm.request", "lm.writer", "lm.interface", "onnx.lm_runtime",
              "onnx.lm_sampling")  # fmt: skip


def modules() -> dict[str, Path]:
    """Dotted name inside the package -> file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(ROOT.rglob("*.py"))
        if not {"pretrained", "recipes"} & set(path.relative_to(ROOT).parts)
    }


def imported(path: Path, *, everywhere: bool = True) -> set[str]:
    """Full names of what a file imports; with everywhere=False only what is imported whenever the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree) if everywhere else at_import(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(node: ast.AST) -> list[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    found = []
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if lazy or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            continue
        found += [child, *at_import(child)]
    return found


def of_package(names: set[str]) -> set[str]:
    """Modules of this package among names such as mimo_codec.codes.AudioCodes."""
    known, found = modules(), set()
    for name in names:
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) == 1:
            continue
        dotted = ".".join(parts[1:])
        while dotted and dotted not in known and f"{dotted}.__init__" not in known:
            dotted = dotted.rpartition(".")[0]
        found.add(dotted or "__init__")
    return found


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_run_one_way(module):
    imports = of_package(imported(ROOT / f"{module}.py", everywhere=module != "__init__"))
    assert imports <= ALLOWED[module], f"{module} imports {sorted(imports - ALLOWED[module])}"


def test_the_order_has_no_cycles():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {module for module, needs in ALLOWED.items() if module not in done and needs <= done}
        assert ready, f"a cycle among {sorted(ALLOWED.keys() - done)}"
        done |= ready


LM = BASE | {"checks"}
LM_ALLOWED = {
    "lm.config": LM | {"files"},
    "lm.layout": LM | {"codes"},
    "lm.tokenizer": LM,
    "lm.prompts": LM | {"files", "lm.layout", "lm.request", "lm.tokenizer"},
    "lm.request": LM | {"lm.layout", "lm.tokenizer"},
    "lm.writer": {"arrays", "codes", "lm.interface", "lm.request", "lm.tokenizer"},
    "lm.interface": LM
    | {"arrays", "audio", "codes"}
    | {"lm.config", "lm.layout", "lm.prompts", "lm.request", "lm.tokenizer", "lm.writer"},
    "lm.sampling": {"lm.request"},
    "lm.cache": set(),
    "lm.model": LM | {"lm.cache", "lm.config", "lm.layout"},
    "lm.quantize": LM,
    "lm.checkpoint": LM | {"files", "weights", "lm.config", "lm.model", "lm.quantize", "lm.tokenizer"},
    "lm.benchmark": LM | {"benchmark", "codec", "lm.config", "lm.generate", "lm.layout", "lm.model", "lm.request"},
    "lm.generate": {"lm.cache", "lm.layout", "lm.model", "lm.request", "lm.sampling"},
}
"""The language model imports codes and audio and nothing else of the codec; lm.pipeline joins the two, and
lm.benchmark is a program."""


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("lm.")])
def test_the_language_model_knows_codes_only(module):
    if module in ("lm.pipeline", "lm.__init__"):
        return
    imports = of_package(imported(modules()[module]))
    assert imports <= LM_ALLOWED[module], f"{module} imports {sorted(imports - LM_ALLOWED[module])}"


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", modules())
def test_extras_are_imported_where_they_are_used(module):
    """Core dependencies only, whatever is imported together with a module; train/ may need its own extra."""
    optional = {"auraloss", "tensorboard", "jsonargparse", "transformers", "onnx", "onnxruntime", "onnxscript", "pesq",
                "pystoi", "parselmouth", "resemblyzer", "librosa", "pocketsphinx", "jiwer", "speechmos",
                "matplotlib", "scipy"}  # fmt: skip
    if not module.startswith("train."):
        optional |= {"lightning", "pytorch_lightning", "torchmetrics"}
    assert not top_level(imported(modules()[module], everywhere=False)) & optional


@pytest.mark.parametrize("module", modules())
def test_nothing_needs_torchaudio_or_pickle(module):
    assert not top_level(imported(modules()[module])) & {"torchaudio", "pickle", "dill", "joblib"}
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_imported_where_it_is_used(module):
    assert "torch" not in top_level(imported(modules()[module], everywhere=False))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_codes_work_without_torch(tmp_path):
    """In a process of its own, where importing torch fails."""
    out = python(f"""
import sys
import mimo_codec
assert "torch" not in sys.modules and "numpy" not in sys.modules
sys.modules["torch"] = None
import numpy as np
from mimo_codec.codes import AudioCodes
from mimo_codec import AudioCodes as same, MimoError
assert AudioCodes is same
codes = AudioCodes(np.arange(6).reshape(2, 3), 2880, 24000, 25.0, (1024, 128))
codes.save({str(tmp_path / "a.mimo")!r})
loaded = AudioCodes.load({str(tmp_path / "a.mimo")!r})
assert loaded == codes and isinstance(loaded.codes, np.ndarray)
print(loaded[0.04:].num_frames)
""")
    assert out == "2"


def test_audio_works_with_numpy_and_soundfile_alone(tmp_path):
    """Read, resampled, coded and written in a process where torch and its company cannot be imported."""
    names = [f"mimo_codec.{name}" for name in TORCH_FREE]
    out = python(f"""
import importlib, os, sys
blocked = ["torch", "einops", "vector_quantize_pytorch", "safetensors", "huggingface_hub", "transformers", "scipy"]
sys.modules.update(dict.fromkeys(blocked))
for name in {names}:
    importlib.import_module(name)
import numpy as np
from mimo_codec import AudioCodes, MimoError, load_audio, resample, save_audio
from mimo_codec.audio import AudioWriter, check_array, check_waveform, iter_arrays, iter_audio

os.chdir({str(tmp_path)!r})
pcm = (8000 * np.sin(np.arange(40_000) / 20)).astype(np.int16)
save_audio("a.wav", np.stack([pcm, pcm]), 16_000)
whole, rate = load_audio("a.wav")
assert rate == 16_000 and np.array_equal(whole, pcm / np.float32(2**15)) and whole.dtype == np.float32
assert np.array_equal(check_array(pcm, rate), whole) and np.array_equal(check_waveform(pcm, rate), whole)
with AudioWriter("b.wav", 24_000) as writer:
    for block in iter_arrays("a.wav", 0.3, 24_000):
        writer.write(block)
expected = resample(whole, rate, 24_000)
blocks = list(iter_audio("a.wav", 0.3, 24_000))
assert all(type(x) is np.ndarray for x in (expected, *blocks))
assert np.abs(np.concatenate(blocks) - expected).max() < 1e-6
assert np.abs(load_audio("b.wav")[0] - expected).max() <= 2**-16
codes = AudioCodes(np.arange(6).reshape(2, 3), 2880, 24_000, 25.0, (1024, 128))
codes.save("a.mimo")
assert AudioCodes.load("a.mimo") == codes
assert not any(sys.modules[name] for name in blocked)
print(len(expected))
""")
    assert out == "60000"


def test_arrays_are_read_without_importing_torch(tmp_path):
    """In a process where torch could be imported."""
    out = python(f"""
import sys
import numpy as np
from mimo_codec.audio import check_array, iter_arrays, save_audio
from mimo_codec.resampling import StreamResampler, resample
path = {str(tmp_path / "a.wav")!r}
save_audio(path, np.ones(16_000), 16_000)
blocks = list(iter_arrays(path, 0.1, 24_000))
resample(check_array(blocks[0], 24_000), 24_000, 16_000)
assert StreamResampler(16_000, 24_000).finish().shape == (0,)
print(sum(map(len, blocks)), "torch" in sys.modules)
""")
    assert out == "24000 False"


def test_public_names():
    out = python("""
import mimo_codec.resampling
from mimo_codec import resample, load_audio, save_audio, MimoCodec, AudioCodes, CodecConfig, MimoError
import mimo_codec, sys
assert callable(mimo_codec.resample) and mimo_codec.resample is mimo_codec.resampling.resample
assert set(mimo_codec.__all__) <= set(dir(mimo_codec))
optional = {"torchaudio", "lightning", "auraloss", "transformers", "huggingface_hub"}
print(sorted(optional & set(sys.modules)))
""")
    assert out == "[]"


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'Codec'"):
        mimo_codec.Codec  # noqa: B018
    with pytest.raises(ImportError):
        from mimo_codec import nothing  # noqa: F401
