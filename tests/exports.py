"""What is costly and several tests use, such as exported codecs: made by the first test that asks for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from goldens import golden_codec, segmented_codec, streaming_codec

from mimo_codec.cli.main import main
from mimo_codec.onnx.codec.export import export_codec


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of all test processes writes; one that could not be made is left out."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not Path(f"{folder}.made").exists():
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


def tiny_export(factory: pytest.TempPathFactory) -> Path:
    """`streaming_codec()`, written by the command, which compares it with PyTorch."""

    def export(folder: Path) -> None:
        model = tiny_model(folder)
        streaming_codec().save_pretrained(model)
        with pytest.raises(SystemExit) as exited:
            main(["export", "codec", str(model), "-o", str(folder)])
        assert exited.value.code == 0

    return made_once(factory, "onnx-tiny", export)


def tiny_model(export: Path) -> Path:
    """The folder of the model that `tiny_export` exports."""
    return export.with_name("onnx-tiny-model")


def segmented_export(factory: pytest.TempPathFactory) -> Path:
    """`segmented_codec("codec_base")`, which does not stream, with 8 codebooks."""
    codec = segmented_codec("codec_base")
    return made_once(factory, "onnx-base", lambda folder: export_codec(codec, folder, num_quantizers=8))


def encoder_only_export(factory: pytest.TempPathFactory) -> Path:
    """The golden codec without a decoder, with all its 20 codebooks."""
    codec = golden_codec("codec_hybrid")
    return made_once(factory, "onnx-hybrid", lambda folder: export_codec(codec, folder, num_quantizers=20))
