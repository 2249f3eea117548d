"""Light augmentation of speech: waveform [S] and a random generator -> another waveform [S].

A codec has to reconstruct its own input, so everything here changes a waveform before it is both input and target.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import check_number, require
from mimo_codec.common.errors import MimoError

MAX_PEAK = 0.99

_SPEED_STEPS = 100  # changes of speed are whole percents, so that few resampling filters are needed
_EQUALISER_BANDS = 8
_LOWEST_HZ, _LOWEST_BANDWIDTH_HZ = 60.0, 3000.0
_REVERB_SECONDS = (0.1, 0.5)
_REVERB_LEVEL = (0.05, 0.4)
_ENVELOPE_SECONDS = 0.04  # analysis window
_LIFTER_SECONDS = 0.002  # ripples of the spectrum that are closer than 500 Hz are the voice's pitch, not its formants
_MOST_FORMANT_DB = 20.0
_MIXTURE_SNR_DB = (0.0, 20.0)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of crops; by default of their level and sign only.

    Args:
        gain_db: range of the change of level in dB; null: none. Peaks stay at or below 0.99.
        invert: whether the sign of half of the crops is changed.
        speed: largest relative change of speed, pitch and formants included, such as 0.1; 0: none.
        formant: largest relative change of the formants alone, such as 0.1; 0: none. Together with `speed` it makes
            other voices: pitch and length of the vocal tract vary independently.
        equalise_db: largest change by a smooth random filter, in dB; 0: none.
        noise_snr_db: range of the signal-to-noise ratio of added white to brown noise, in dB; null: none.
        reverb: share of crops that get an artificial room; 0: none.
        bandwidth: share of crops that lose all frequencies above a random one from 3 kHz on; 0: none.
        mixture: share of crops that get another utterance on top, 0 to 20 dB below; 0: none.

    Raises MimoError, which names the setting, for values out of range.
    """

    gain_db: tuple[float, float] | None = (-8.0, 6.0)
    invert: bool = True
    speed: float = 0.0
    equalise_db: float = 0.0
    noise_snr_db: tuple[float, float] | None = None
    reverb: float = 0.0
    bandwidth: float = 0.0
    formant: float = 0.0
    mixture: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        for name, low, high in (("gain_db", -60, 40), ("noise_snr_db", -10, 100)):
            pair = getattr(self, name)
            if pair is None:
                continue
            is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
            require(is_pair, f"augmentation: {name} must be a low and a high value, not {pair!r}")
            bounds = [check_number(f"augmentation: {name}", value, low, high) for value in pair]
            require(bounds[0] <= bounds[1], f"augmentation: {name}: {bounds[0]:g} is above {bounds[1]:g}")
        for name, largest in (
            ("speed", 0.5),
            ("equalise_db", 40),
            ("reverb", 1),
            ("bandwidth", 1),
            ("formant", 0.5),
            ("mixture", 1),
        ):
            check_number(f"augmentation: {name}", getattr(self, name), 0, largest)

    def draw_speed(self, rng: np.random.Generator) -> int:
        """Draw a speed in percent, 100 for that of the recording.

        To apply it, read `num_samples_before` samples and pass them to `change_speed`.
        """
        most = round(self.speed * _SPEED_STEPS)
        return _SPEED_STEPS + int(rng.integers(-most, most + 1)) if most else _SPEED_STEPS

    def __call__(self, waveform: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        """Change all but the speed: [S] float32 -> [S], with peaks of at most 0.99; finite if `waveform` is."""
        x = waveform
        if self.formant:
            x = _move_formants(x, sample_rate, 1 + rng.uniform(-self.formant, self.formant))
        if rng.random() < self.reverb:
            x = _in_a_room(x, sample_rate, rng)
        if self.equalise_db:
            x = _filter(x, sample_rate, *_random_equaliser(self.equalise_db, sample_rate, rng))
        if rng.random() < self.bandwidth:
            x = _low_pass(x, sample_rate, rng)
        if self.noise_snr_db is not None:
            x = _add_noise(x, rng.uniform(*self.noise_snr_db), rng)
        gain = 10 ** (rng.uniform(*self.gain_db) / 20) if self.gain_db is not None else 1.0
        sign = rng.choice((-1.0, 1.0)) if self.invert else 1.0
        peak = float(x.abs().max()) if len(x) else 0.0
        return (x * float(sign * min(gain, MAX_PEAK / max(peak, 1e-9)))).clamp(-MAX_PEAK, MAX_PEAK)


class Effect(ABC):
    """A random change of crops of your own: derive from it, and name your class in `data.effects`.

    Crops are the input of the codec and what it is to reproduce, so an effect changes both.
    """

    @abstractmethod
    def __call__(self, waveform: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
        """Change a waveform [S] float32 -> another of the same length, finite.

        Use no other randomness than `rng`: crop i of a run is then the same in every process and after resuming.
        """


def apply_effects(effects: Sequence[Effect], waveform: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """Apply effects one after the other: [S] -> [S]; raise MimoError, which names the class, for other results."""
    for effect in effects:
        changed = effect(waveform, sample_rate, rng)
        is_waveform = isinstance(changed, Tensor) and changed.shape == waveform.shape and changed.is_floating_point()
        if not is_waveform or not changed.isfinite().all():
            name = type(effect).__qualname__
            raise MimoError(f"effects: {name} must return a finite waveform of {len(waveform)} samples")
        waveform = changed.to(waveform)
    return waveform


def mix(waveform: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    """Add `other` [S'], cut or followed by silence, to `waveform` [S], at a random level 0 to 20 dB below -> [S]."""
    other = F.pad(other, (0, max(len(waveform) - len(other), 0)))[: len(waveform)]
    ratio = waveform.square().mean().sqrt() / other.square().mean().sqrt().clamp(min=1e-6)
    return waveform + other * ratio * 10 ** (-rng.uniform(*_MIXTURE_SNR_DB) / 20)


def num_samples_before(num_samples: int, speed: int) -> int:
    """Return of how many samples `change_speed` makes at least `num_samples`."""
    return -(-num_samples * speed // _SPEED_STEPS)


def change_speed(waveform: Tensor, speed: int) -> Tensor:
    """Play a waveform at `speed` percent, pitch included: [S] -> [ceil(S * 100 / speed)]."""
    if speed == _SPEED_STEPS:
        return waveform
    return resample(waveform, 20 * speed, 20 * _SPEED_STEPS)  # times 20, as sample rates start at 1000


# ---- effects ---------------------------------------------------------------------------------------------------------


def _fft_size(at_least: int) -> int:
    """Return the next power of two: some sizes between are much slower."""
    return 1 << (at_least - 1).bit_length()


def _random_equaliser(most_db: float, sample_rate: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and levels in dB of a filter's corners."""
    corners = np.geomspace(_LOWEST_HZ, sample_rate / 2, _EQUALISER_BANDS)
    return corners, rng.uniform(-most_db, most_db, _EQUALISER_BANDS)


def _filter(x: Tensor, sample_rate: int, corners_hz: np.ndarray, levels_db: np.ndarray) -> Tensor:
    """Zero-phase filter whose level in dB is linear between its corners on a logarithmic axis of frequency."""
    size = _fft_size(2 * len(x))  # so that the end does not leak into the beginning
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    levels = np.interp(np.log(np.maximum(hertz, 1.0)), np.log(corners_hz), levels_db)
    response = torch.from_numpy(10 ** (levels / 20)).to(x)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x, size) * response, size)
    return filtered[: len(x)]


def _low_pass(x: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """What a recording of a lower sample rate keeps: nothing from a tenth above a random frequency on."""
    edge = np.exp(rng.uniform(math.log(_LOWEST_BANDWIDTH_HZ), math.log(sample_rate / 2)))
    return _filter(x, sample_rate, np.array([edge, 1.1 * edge]), np.array([0.0, -100.0]))


def _add_noise(x: Tensor, snr_db: float, rng: np.random.Generator) -> Tensor:
    """Noise from white (power ~ 1) to brown (~ 1 / f^2), `snr_db` below the waveform."""
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0, 1)
    noise = torch.from_numpy(np.fft.irfft(spectrum, len(x))).to(x)
    ratio = x.square().mean().sqrt() / noise.square().mean().sqrt().clamp(min=1e-12)
    return x + noise * ratio * 10 ** (-snr_db / 20)


def _move_formants(x: Tensor, sample_rate: int, ratio: float) -> Tensor:
    """The spectral envelope stretched by `ratio`, its fine structure as it was: a filter that changes with time."""
    size = _fft_size(max(round(_ENVELOPE_SECONDS * sample_rate), 4))
    window = torch.hann_window(size)
    spectrum = torch.stft(x, size, size // 4, window=window, pad_mode="constant", return_complex=True).T
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-5).log(), size)
    kept = max(round(_LIFTER_SECONDS * sample_rate), 1)
    cepstrum[:, kept : size - kept + 1] = 0
    envelope = torch.fft.rfft(cepstrum).real
    place = (torch.arange(size // 2 + 1) / ratio).clamp(max=size // 2)
    below = place.long().clamp(max=size // 2 - 1)
    moved = torch.lerp(envelope[:, below], envelope[:, below + 1], place - below)
    most = _MOST_FORMANT_DB / 20 * math.log(10)
    spectrum = spectrum * (moved - envelope).clamp(-most, most).exp()
    return torch.istft(spectrum.T, size, size // 4, window=window, length=len(x))


def _in_a_room(x: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """Direct sound plus exponentially decaying noise as response: -60 dB after a random time."""
    seconds, level = rng.uniform(*_REVERB_SECONDS), rng.uniform(*_REVERB_LEVEL)
    time = np.arange(max(2, round(seconds * sample_rate))) / (seconds * sample_rate)
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time)
    tail *= level / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    size = _fft_size(len(x) + len(tail))
    response = torch.fft.rfft(torch.from_numpy(tail).to(x), size)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x, size) * response, size)
    return filtered[: len(x)]
