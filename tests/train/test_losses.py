"""Losses and discriminators: known values, invariance to padding, and what gradients reach."""

import math

import pytest
import torch
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightning", reason="needs the train extra")

from mimo_codec.codec.mel_distance import PAPER_SCALES, compress, masked_mean, multi_scale_mel_loss
from mimo_codec.train.codec.discriminators import Discriminators
from mimo_codec.train.codec.losses import (
    IGNORED,
    adversarial_loss,
    commitment_loss,
    discriminator_loss,
    feature_matching_loss,
    multi_resolution_stft_loss,
    text_loss,
)

# ---- reconstruction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_mel_loss_is_zero_for_equal_and_grows_with_noise(power):
    speech = make_speech(1.0)[None]
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    losses = [
        float(multi_scale_mel_loss(speech + a * noise, speech, 24000, PAPER_SCALES, power)) for a in (0, 0.01, 0.1)
    ]
    assert losses[0] == 0 < losses[1] < losses[2]


def test_compression_goes_from_magnitudes_to_logarithms():
    quiet, loud = torch.tensor([0.01, 0.02]), torch.tensor([1.0, 2.0])

    def steps(power: float) -> tuple[float, float]:
        return tuple(float(compress(x, power).diff()) for x in (quiet, loud))

    assert steps(1.0) == pytest.approx((0.01, 1.0), rel=1e-3)
    assert steps(0.0) == pytest.approx((math.log(2), math.log(2)), rel=0.1)
    assert steps(1e-4) == pytest.approx(steps(0.0), rel=1e-2)
    assert steps(1.0)[0] < steps(0.3)[0] < steps(0.0)[0] and steps(0.0)[1] < steps(0.3)[1] < steps(1.0)[1]


def test_paper_scales():
    """2^i bins, window 15 x 2^(i-1), hop 15 x 2^(i-2), i = 5, 6, 7."""
    assert PAPER_SCALES == ((32, 240, 120), (64, 480, 240), (128, 960, 480))


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_padding_does_not_count_in_the_mel_loss(power):
    target, estimate = make_speech(0.5, seed=0)[None], make_speech(0.5, seed=1)[None]
    lengths = torch.tensor([target.shape[1]])

    def padded(extra: int) -> float:
        pair = (torch.nn.functional.pad(x, (0, extra)) for x in (estimate, target))
        return float(multi_scale_mel_loss(*pair, 24000, PAPER_SCALES, power, lengths))

    assert padded(24000) == pytest.approx(padded(3000), rel=1e-5)
    # what lies at the very end sees silence instead of its reflection, so almost the same as alone
    assert padded(3000) == pytest.approx(padded(0), rel=0.05)


def test_stft_loss_is_zero_for_equal_and_has_gradients():
    speech = make_speech(0.5)[None]
    estimate = (speech + 0.01).requires_grad_()
    assert float(multi_resolution_stft_loss(speech, speech)) == pytest.approx(0, abs=1e-5)
    multi_resolution_stft_loss(estimate, speech).backward()
    assert estimate.grad.abs().max() > 0


@given(st.lists(st.integers(0, 7), min_size=1, max_size=4))
@settings(deadline=None)
def test_masked_mean_is_the_mean_of_what_is_left(lengths):
    x = torch.rand(len(lengths), 7)
    left = torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)])
    expected = float(left.mean()) if len(left) else 0.0
    x_with_nan = torch.where(torch.arange(7) < torch.tensor(lengths)[:, None], x, torch.nan)
    assert float(masked_mean(x_with_nan, torch.tensor(lengths))) == pytest.approx(expected, abs=1e-6)


def test_commitment_is_the_mean_over_codebooks():
    features = torch.zeros(1, 2, 3, requires_grad=True)
    partial = torch.stack((torch.full((1, 2, 3), 2.0), torch.full((1, 2, 3), 1.0)))
    loss = commitment_loss(features, partial)
    assert float(loss.detach()) == pytest.approx((4 + 1) / 2)
    loss.backward()
    assert (features.grad < 0).all()
    padded = partial * torch.tensor([1, math.inf])[:, None]
    assert float(commitment_loss(features.detach(), padded, torch.tensor([1]))) == 2.5


def test_text_loss_counts_text_only():
    logits = torch.zeros(1, 3, 4)
    assert float(text_loss(logits, torch.tensor([[IGNORED, 1, 2]]))) == pytest.approx(math.log(4))
    assert float(text_loss(logits, torch.full((1, 3), IGNORED))) == 0


# ---- adversarial -----------------------------------------------------------------------------------------------------


def test_hinge_losses_by_hand():
    real, fake = [torch.tensor([2.0, 0.0]), torch.tensor([-1.0])], [torch.tensor([-2.0, 1.0]), torch.tensor([0.0])]
    # first: (0 + 1) / 2 + (0 + 2) / 2 = 1.5, second: 2 + 1 = 3
    assert float(discriminator_loss(real, fake)) == pytest.approx(2.25)
    # first: (3 + 0) / 2, second: 1
    assert float(adversarial_loss(fake)) == pytest.approx(1.25)


def test_feature_matching_averages_layers_then_discriminators():
    real = [[torch.zeros(2), torch.zeros(5)], [torch.zeros(1)]]
    fake = [[torch.ones(2), torch.full((5,), 3.0)], [torch.full((1,), 4.0)]]
    assert float(feature_matching_loss(real, fake)) == pytest.approx(((1 + 3) / 2 + 4) / 2)


def test_no_gradients_reach_the_real_features():
    real, fake = [[torch.zeros(2, requires_grad=True)]], [[torch.ones(2, requires_grad=True)]]
    feature_matching_loss(real, fake).backward()
    assert real[0][0].grad is None and fake[0][0].grad is not None


@pytest.fixture(scope="module")
def discriminators() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators((2, 5), (4, 8), (512, 128), 4)


def test_discriminators_judge_any_length(discriminators):
    for size in (2400, 2401, 9999):
        judged = discriminators(torch.randn(2, size))
        assert len(judged.scores) == len(judged.layers) == 4
        assert all(score.shape[:2] == (2, 1) and score.isfinite().all() for score in judged.scores)
        assert [len(layers) for layers in judged.layers] == [2, 2, 5, 5]


def test_every_layer_is_spectrally_normalised(discriminators):
    discriminators.train()
    for _ in range(50):  # power iteration
        discriminators(torch.randn(1, 2400))
    convolutions = [m for m in discriminators.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 2 * 3 + 2 * 6
    with torch.no_grad():
        for convolution in convolutions:
            top = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
            assert float(top) == pytest.approx(1, abs=0.02)


def test_period_discriminator_sees_every_pth_sample_together():
    """A change of one sample touches one column only of the first layer."""
    first = Discriminators((5,), (4, 4), ())[0].eval()
    waveform = torch.randn(1, 100)
    changed = waveform.clone()
    changed[0, 13] += 1
    difference = (first(changed)[1][0] - first(waveform)[1][0]).abs().sum((0, 1, 2))
    assert difference.nonzero().flatten().tolist() == [13 % 5]


def test_discriminators_learn_to_tell_noise_from_speech():
    torch.manual_seed(0)
    model = Discriminators((2, 3), (8, 8), (256,), 8)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0)
    speech = torch.stack([make_speech(0.2, seed=i) for i in range(4)])
    losses = []
    for _ in range(40):
        loss = discriminator_loss(model(speech).scores, model(0.1 * torch.randn_like(speech)).scores)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.9 and losses[-1] < 1.5
