"""Imports run one way, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mimo_codec

ROOT = Path(mimo_codec.__file__).parent
PACKAGE = "mimo_codec"

ROOMS = {
    "common": set(),
    "audio": {"common"},
    "bitstream": {"common"},
    "hub": {"common"},
    "codes": {"common", "bitstream"},
    "codec": {"common", "audio", "hub", "codes"},
    "data": {"common", "audio"},
    "metrics": {"common", "audio", "codec"},
    "train": {"common", "codec", "data", "metrics"},
    "evaluation": {"common", "audio", "codes", "codec", "data", "metrics"},
    "onnx": {"common", "codec"},
    "onnx.codec": {"common", "audio", "codes", "codec", "hub", "onnx"},
    "loading": {"common", "codec", "onnx", "onnx.codec"},
    "lm": {"common", "audio", "codes", "hub"},
    "evaluation.lm": {"common", "audio", "data", "evaluation", "lm", "metrics"},
    "onnx.lm": {"common", "audio", "codes", "codec", "hub", "lm", "loading", "onnx", "onnx.codec"},
    "train.lm": {"common", "audio", "codes", "codec", "data", "hub", "lm", "loading", "metrics", "train"},
    "corpus": {"common", "audio", "data", "loading", "metrics"},
    "cli": {
        "common",
        "audio",
        "bitstream",
        "codes",
        "codec",
        "corpus",
        "data",
        "evaluation",
        "evaluation.lm",
        "hub",
        "lm",
        "loading",
        "metrics",
        "onnx",
        "onnx.codec",
        "onnx.lm",
        "train",
        "train.lm",
    },
    "benchmarks": {
        "common",
        "audio",
        "codec",
        "corpus",
        "data",
        "lm",
        "onnx",
        "onnx.codec",
        "onnx.lm",
        "train",
        "train.lm",
    },
}
"""What each folder, or file beside the folders, may import from the package, besides itself."""
BESIDES = {
    "lm.audio": {"codec"},
    "lm.pipeline": {"codec", "loading"},
    "__init__": {"common"},
    "__main__": {"cli"},
}
"""What single files may import too: of the language model, only what users load knows the codec."""
TORCH_FREE = (
    "common.lazy",
    "common.errors",
    "common.checks",
    "common.fields",
    "common.files",
    "common.arrays",
    "common.spooled",
    "audio.sources",
    "audio.files",
    "audio.folders",
    "audio.resampling",
    "audio.waveform",
    "bitstream",
    "hub",
    "codes",
    "codec.choices",
    "codec.config",
    "codec.keys",
    "codec.presets",
    "codec.base",
    "codec.facts",
    "codec.incoming",
    "codec.together",
    "codec.pieces",
    "codec.streaming",
    "loading",
    "cli.plan",
    "onnx.cuda_graphs",
    "onnx.files",
    "onnx.session",
    "onnx.codec.runtime",
    "onnx.lm.runtime",
    "onnx.lm.sampling",
    "lm.audio",
    "lm.base",
    "lm.config",
    "lm.generate",
    "lm.instructions",
    "lm.layout",
    "lm.methods",
    "lm.output",
    "lm.prompts",
    "lm.request",
    "lm.tasks",
    "lm.tokenizer",
)


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


def room(module: str) -> str:
    """The folder of a module, the innermost that is a room, or the module itself where it stands beside the folders."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ROOMS else parts[0]


@pytest.mark.parametrize("module", modules())
def test_rooms_import_one_way(module):
    # public names are imported on first use
    imports = {room(name) for name in of_package(imported(modules()[module], everywhere="__init__" not in module))}
    allowed = {"__init__", room(module)} | ROOMS.get(room(module), set()) | BESIDES.get(module, set())
    assert imports <= allowed, f"{module} imports {sorted(imports - allowed)}"


def assert_no_circle(needs: dict[str, set[str]]) -> None:
    done: set[str] = set()
    while len(done) < len(needs):
        ready = {name for name in needs if name not in done and needs[name] - {name} <= done}
        assert ready, f"a circle among {sorted(needs.keys() - done)}"
        done |= ready


def test_no_circle_between_files():
    names = {name: path for name, path in modules().items() if not name.endswith("__init__")}
    needs = {name: of_package(imported(path)) & names.keys() for name, path in names.items()}
    assert_no_circle(needs)


def test_no_circle_between_rooms():
    """Neither between what rooms may import nor, single files and imports inside functions included, what they do."""
    assert_no_circle({name: set(needs) for name, needs in ROOMS.items()})
    needs: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, path in modules().items():
        if not module.endswith(("__init__", "__main__")):
            needs[room(module)] |= {room(name) for name in of_package(imported(path))} & ROOMS.keys()
    assert_no_circle(needs)
    assert {room(module) for module in modules()} == {*ROOMS, "__init__", "__main__"}


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", modules())
def test_extras_are_imported_where_they_are_used(module):
    """Core dependencies only, whatever is imported together with a module; training may need its own extra."""
    optional = {
        "auraloss",
        "tensorboard",
        "jsonargparse",
        "transformers",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pesq",
        "pystoi",
        "parselmouth",
        "resemblyzer",
        "librosa",
        "pocketsphinx",
        "jiwer",
        "speechmos",
        "matplotlib",
        "scipy",
        "pyarrow",
    }
    if not module.startswith(("train.", "data.module")):
        optional |= {"lightning", "pytorch_lightning", "torchmetrics"}
    assert not top_level(imported(modules()[module], everywhere=False)) & optional


@pytest.mark.parametrize("module", modules())
def test_nothing_needs_torchaudio_or_pickle(module):
    assert not top_level(imported(modules()[module])) & {"torchaudio", "pickle", "dill", "joblib"}
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if module != "train.checkpoints":  # which reads tensors and plain values only
        assert not calls & {"torch.load", "torch.save"}


def test_checkpoints_of_training_are_read_without_pickled_objects():
    tree = ast.parse(modules()["train.checkpoints"].read_text(encoding="utf-8"))
    loads = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert loads and all("weights_only=True" in ast.unparse(load) for load in loads)


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
from mimo_codec.audio.files import iter_arrays, iter_audio
from mimo_codec.audio.writer import AudioWriter
from mimo_codec.audio.waveform import check_array

os.chdir({str(tmp_path)!r})
pcm = (8000 * np.sin(np.arange(40_000) / 20)).astype(np.int16)
save_audio("a.wav", np.stack([pcm, pcm]), 16_000)
whole, rate = load_audio("a.wav")
assert rate == 16_000 and np.array_equal(whole, pcm / np.float32(2**15)) and whole.dtype == np.float32
assert np.array_equal(check_array(pcm, rate), whole)
with AudioWriter("b.wav", 24_000) as writer:
    for block in iter_arrays("a.wav", 0.3, 24_000):
        writer.write(block)
expected = resample(whole, rate, 24_000)
blocks = list(iter_audio("a.wav", 0.3, 24_000))
assert all(type(x) is np.ndarray for x in (expected, *blocks))
assert np.array_equal(np.concatenate(blocks), expected)
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
from mimo_codec.audio.files import iter_arrays
from mimo_codec.audio.writer import save_audio
from mimo_codec.audio.resampling import StreamResampler, resample
from mimo_codec.audio.waveform import check_array
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
import mimo_codec.audio.resampling
from mimo_codec import resample, load_audio, save_audio, MimoCodec, AudioCodes, CodecConfig, MimoError
import mimo_codec, sys
assert callable(mimo_codec.resample) and mimo_codec.resample is mimo_codec.audio.resampling.resample
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
