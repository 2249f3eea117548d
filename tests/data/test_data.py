"""Training data: crops and their order."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from broken_files import RATE, write_speech
from torch import Tensor

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from loading import attach, batches, equal, make_data
from torch.utils.data import DistributedSampler

from mimo_codec import MimoError
from mimo_codec.data.augment import Augmentation
from mimo_codec.data.batch import Batch
from mimo_codec.data.dataset import Reader
from mimo_codec.data.manifest import read_faults, write_manifest
from mimo_codec.data.module import SpeechData
from mimo_codec.data.scan import scan
from mimo_codec.data.utterance import Utterance, drop_long_texts

AS_IT_IS = Augmentation(gain_db=None, invert=False)

EVERYTHING = Augmentation((-8.0, 6.0), True, 0.1, 12.0, (0.0, 30.0), 1.0, 1.0, 0.1, 0.5)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_crops_are_a_function_of_seed_and_number(speech_folder: Path) -> None:
    first, again, other = (make_data(speech_folder, seed=seed).crops() for seed in (0, 0, 1))
    backwards = {i: again[i] for i in reversed(range(12))}
    assert all(torch.equal(first[i].waveform, backwards[i].waveform) for i in range(12))
    uncached = make_data(speech_folder, cache_gb=0).crops()
    assert all(torch.equal(first[i].waveform, uncached[i].waveform) for i in range(12))
    assert not all(torch.equal(first[i].waveform, other[i].waveform) for i in range(12))


def test_batches_of_crops(speech_folder: Path) -> None:
    data = make_data(speech_folder, augmentation=EVERYTHING, batch_size=16)
    attach(data)
    for batch in (batch["crops"] for batch in batches(data, 3)):
        assert batch.waveform.shape == (16, 12000) and batch.waveform.dtype == torch.float32
        assert batch.waveform.isfinite().all() and batch.waveform.abs().max() <= 0.99
        assert batch.lengths.dtype == torch.int64 and len(batch.texts) == len(batch.names) == 16
        for row, length, text, name in zip(*batch[:4], strict=True):
            assert not row[length:].any() and row[:length].any()
            assert (length < 12000) == (Path(name).name == "2.wav")
            assert (text != "") == (Path(name).name in ("0.wav", "1.wav"))


def test_a_mixture_is_the_crop_and_another_below_it(tmp_path: Path) -> None:
    for name, hertz in (("a", 500), ("b", 3000)):
        tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(24000) / 24000)
        sf.write(tmp_path / f"{name}.wav", tone, 24000)
    alone, mixed = (
        make_data(tmp_path, augmentation=Augmentation(None, False, mixture=share)).crops() for share in (0.0, 1.0)
    )
    two_tones = 0
    for number in range(20):
        spectra = [torch.fft.rfft(crops[number].waveform).abs() for crops in (alone, mixed)]
        assert spectra[0].argmax() == spectra[1].argmax()  # the crop itself is on top
        assert alone[number].name == mixed[number].name
        loud = spectra[1] > 0.05 * spectra[1].max()
        two_tones += bool(loud[: len(loud) // 8].any() and loud[len(loud) // 8 :].any())
    assert 3 <= two_tones <= 17


def write_ramp(path: Path, num_samples: int) -> Tensor:
    """A file at 1 kHz whose samples tell where they are."""
    ramp = torch.linspace(0.1, 0.9, num_samples)
    sf.write(path, ramp.numpy(), 1000, subtype="FLOAT")
    return ramp


def test_crops_are_pieces_of_their_files(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.wav", 3000)
    crops = make_data(tmp_path, sample_rate=1000, augmentation=AS_IT_IS).crops()
    starts = [int((ramp - crops[i].waveform[0]).abs().argmin()) for i in range(50)]
    for i, start in enumerate(starts):
        assert torch.allclose(crops[i].waveform, ramp[start : start + 500], atol=1e-4)
    assert min(starts) < 500 and max(starts) > 2000


def test_files_are_drawn_by_duration_and_folder_weight(tmp_path: Path) -> None:
    write_speech(tmp_path / "a" / "long.wav", 3.0)
    write_speech(tmp_path / "a" / "short.wav", 1.0)
    write_speech(tmp_path / "b" / "rare.wav", 4.0)
    crops = make_data(tmp_path, folder_weights={"b": 0.25}).crops()
    counts = Counter(Path(crops[i].name).stem for i in range(1000))
    assert counts["long"] == pytest.approx(600, abs=60) and counts["rare"] == pytest.approx(200, abs=50)
    with pytest.raises(MimoError, match="folder_weights"):
        make_data(tmp_path, folder_weights={"a": 0, "b": 0}).crops()
    with pytest.raises(MimoError, match="no audio below a folder 'c'"):
        make_data(tmp_path, folder_weights={"a": 1, "c": 0.5})


def test_spoken_utterances_are_whole_and_have_text(speech_folder: Path) -> None:
    data = make_data(speech_folder, text_batch_size=3, max_text_seconds=2.0)
    assert data.texts() == ["one second: 一秒"]
    attach(data)
    (batch,) = batches(data, 1)
    assert batch["crops"].waveform.shape == (4, 12000)
    assert batch["spoken"].texts == ("one second: 一秒",) * 3 and batch["spoken"].lengths.tolist() == [24000] * 3
    both = make_data(speech_folder, text_batch_size=8)
    attach(both)
    spoken = batches(both, 1)[0]["spoken"]
    assert set(spoken.lengths.tolist()) == {24000, 72000} and spoken.waveform.shape == (8, 72000)
    with pytest.raises(MimoError, match="has text"):
        make_data(speech_folder, text_batch_size=1, max_text_seconds=0.5)
    without = make_data(speech_folder, text_batch_size=1, max_text_seconds=0.5, optional_text=True)
    attach(without)
    assert without.text_batch_size == 0 and set(batches(without, 1)[0]) == {"crops"}


def test_ranks_together_see_what_one_process_sees(speech_folder: Path) -> None:
    options: dict[str, Any] = {"text_batch_size": 2, "augmentation": EVERYTHING}
    one = make_data(speech_folder, **options | {"batch_size": 8, "text_batch_size": 4})
    attach(one)
    whole = batches(one, 3)
    ranks = []
    for rank in range(2):
        data = make_data(speech_folder, **options)
        attach(data, rank=rank, world_size=2)
        ranks.append(batches(data, 3))
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["crops"].waveform, torch.cat([part["crops"].waveform for part in parts]))
        assert batch["spoken"].names == parts[0]["spoken"].names + parts[1]["spoken"].names


@pytest.mark.parametrize("num_workers", [0, 2])
def test_order_goes_on_where_training_stands(speech_folder: Path, num_workers: int) -> None:
    data = make_data(speech_folder, text_batch_size=1)
    trainer = attach(data)
    whole = batches(data, 6)
    resumed = make_data(speech_folder, text_batch_size=1, num_workers=num_workers)
    attach(resumed, seen=2)
    rest = batches(resumed, 4)
    assert all(equal(a[key], b[key]) for a, b in zip(whole[2:], rest, strict=True) for key in ("crops", "spoken"))
    loader = data.train_dataloader()
    trainer.lightning_module.batches_seen = 5  # known when iteration starts, later than the loader is made
    assert equal(next(iter(loader))[0]["crops"], whole[5]["crops"])


def test_the_length_of_a_run_is_nominal(speech_folder: Path) -> None:
    data = make_data(speech_folder)
    trainer = attach(data, max_steps=3)
    trainer.lightning_module.accumulate = 2
    (loader,) = data.train_dataloader().flattened
    assert len(loader) == 6
    assert len(list(itertools.islice(loader, 9))) == 9  # steps may be skipped
    assert isinstance(loader.sampler, DistributedSampler)  # or Lightning would share its numbers out once more
    trainer.max_steps = -1
    with pytest.raises(MimoError, match="max_steps"):
        data.train_dataloader()


def test_loaders_leave_the_global_random_state_alone(speech_folder: Path) -> None:
    data = make_data(speech_folder, augmentation=EVERYTHING)
    attach(data)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    batches(data, 2)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_utterances_of_a_long_file_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a crop of a long file nor a range of it decodes the rest."""
    path = tmp_path / "long.wav"
    ramp = write_ramp(path, 90_000)
    rows = [Utterance(path), Utterance(path, 30.0, 31.0, text="x")]
    write_manifest(tmp_path / "m.jsonl", scan(rows)[0])
    data = make_data(tmp_path / "m.jsonl", sample_rate=1000, augmentation=AS_IT_IS, text_batch_size=1)
    read, num_read = sf.SoundFile.read, []
    monkeypatch.setattr(sf.SoundFile, "read", lambda *a, **k: num_read.append(len(x := read(*a, **k))) or x)
    crops = data.crops()
    items = [crops[i] for i in range(5)]
    spoken = data.spoken()[0]
    assert 0 < sum(num_read) < 6 * 1100
    assert spoken.name == f"{path} @ 30" and spoken.text == "x"
    assert torch.allclose(spoken.waveform, ramp[30_000:31_000], atol=1e-4)
    for item in items:
        start = int((ramp - item.waveform[0]).abs().argmin())
        assert torch.allclose(item.waveform, ramp[start : start + 500], atol=1e-4)


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path) -> None:
    rows = [Utterance(write_speech(tmp_path / f"{i}.wav", 1.0, seed=i)) for i in range(5)]
    reader = Reader(RATE, cache_bytes=2 * 2 * RATE)
    first = [reader.whole(row) for row in rows]
    assert len(reader._kept) == 2 and reader._kept_bytes == 2 * 2 * RATE
    for row in rows[3:]:
        row.path.unlink()
    assert all(torch.equal(reader.whole(rows[i]), first[i]) for i in (4, 3, 0))
    with pytest.raises(MimoError, match="no such file"):
        reader.whole(rows[4])


def test_validation_files_are_whole(speech_folder: Path) -> None:
    data = make_data(speech_folder, validation_root=str(speech_folder))
    loaded = list(data.val_dataloader())
    assert [Path(batch.names[0]).name for batch in loaded] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert loaded[0].waveform.shape == (1, 72000) and loaded[0].texts == ("three seconds",)
    few = make_data(speech_folder, validation_root=str(speech_folder), num_validation_files=3)
    assert [Path(batch.names[0]).name for batch in few.val_dataloader()] == ["0.wav", "1.wav", "2.wav"]
    assert make_data(speech_folder).val_dataloader() == []


def test_splits_of_one_manifest(speech_folder: Path, tmp_path: Path) -> None:
    rows = [Utterance(speech_folder / f"{i}.wav", split="dev" if i == 2 else "train") for i in range(4)]
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, rows)
    data = make_data(manifest, split="train", validation_root=str(manifest), validation_split="dev")
    assert [len(data.utterances[part]) for part in ("train", "validation")] == [3, 1]
    with pytest.raises(MimoError, match="test"):
        make_data(manifest, split="test")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("segment_seconds", -1.0),
        ("folder_weights", {"a": -1}),
        ("num_workers", -1),
        ("seed", -1),
        ("min_seconds", -1.0),
        ("text_batch_size", 1.5),
        ("cache_gb", -1),
    ],
)
def test_arguments_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(MimoError, match=name):
        SpeechData("speech", **{name: value})


# ---- files that break ------------------------------------------------------------------------------------------------


class Listener(lightning.LightningModule):
    """Trains one number, and keeps the names of what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches_seen, self.names, self.faults = 0, [], []

    def training_step(self, batch: dict[str, Batch], index: int) -> torch.Tensor:
        self.batches_seen += 1
        assert all(isinstance(part, Batch) for part in batch.values())
        self.names += [*batch["crops"].names, *batch["spoken"].names]
        self.faults += [*batch["crops"].faults, *batch["spoken"].faults]
        return self.scale * batch["crops"].waveform.square().mean()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.names += batch.names

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_trains_on_it(speech_folder: Path, tmp_path: Path, caplog) -> None:
    data = SpeechData(
        str(speech_folder), str(speech_folder), batch_size=4, segment_seconds=0.5, text_batch_size=2, num_workers=1
    )
    module = Listener()
    trainer = lightning.Trainer(
        max_steps=5,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    assert trainer.global_step == 5 == module.batches_seen and not module.faults
    assert len(module.names) > 5 * 6
    assert [fault.path.name for fault in read_faults(tmp_path / "data" / "skipped.jsonl")] == ["broken.wav"]
    assert "broken.wav" in caplog.text


def test_texts_that_nobody_can_say_are_not_used(tmp_path):
    """They would stall the text model; the audio is used all the same."""
    rows = [Utterance(tmp_path / f"{n}.wav", text="a" * n, seconds=3.0) for n in (150, 200, 201, 10_000)]
    kept, faults = drop_long_texts(rows)
    assert [len(u.text or "") for u in kept] == [150, 200, 0, 0] and len(kept) == 4
    assert [str(fault) for fault in faults] == [
        f"{tmp_path / name}: bad text: {count} characters of text are too many for 3 s"
        for name, count in (("201.wav", 201), ("10000.wav", 10_000))
    ]
