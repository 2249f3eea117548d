"""Training losses, each a pure function (MiMo-Audio technical report, arXiv 2512.23808, section 2.1.2).

Waveforms are [B, S], zero-padded; `lengths` [B] says how many samples of each are valid, and padding does not count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.mel_distance import masked_mean

IGNORED = -100
"""Target of text positions that are padding."""


@functools.cache
def _multi_resolution_stft() -> nn.Module:
    from auraloss.freq import MultiResolutionSTFTLoss

    sizes = [512, 1024, 2048]
    made: nn.Module = MultiResolutionSTFTLoss(fft_sizes=sizes, hop_sizes=[n // 4 for n in sizes], win_lengths=sizes)
    return made


def multi_resolution_stft_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Spectral convergence and log-magnitude distance over three resolutions, by auraloss (Yamamoto et al. 2020).

    estimate, target: [B, S]. Returns a scalar.
    """
    loss: Tensor = _multi_resolution_stft()(estimate[:, None].float(), target[:, None].float())
    return loss


def commitment_loss(latents: Tensor, partial: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Squared distance of the latents from what each prefix of the codebooks gives (L_commit, section 2.1.2).

    It is a mean over frames, dimensions and codebooks (van den Oord et al. 2017, equation 3). latents: [B, T, D];
    partial: [Q, B, T, D] without gradients, both of a `QuantizerOutput`; lengths: [B] frames. Returns a scalar.
    """
    return masked_mean((latents.float() - partial).square().mean((0, -1)), lengths)


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats per text token (L_A2T, section 2.1.2).

    logits: [B, L, V]; targets: [B, L], `IGNORED` where there is no text. Returns a scalar, 0 if there is none at all.
    """
    total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


# ---- adversarial: a tensor of scores, and a list of the layers' outputs, per sub-discriminator -----------------------


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of K sub-discriminators, averaged over them: max(0, 1 - D(x)) + max(0, 1 + D(G(x))) (section 2.1.2).

    real, fake: K tensors of scores, of any shape each. Returns a scalar.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack([F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in pairs]).mean()


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """The generator's side of the hinge loss: max(0, 1 - D(G(x))), averaged over K sub-discriminators (L_adv, 2.1.2).

    fake: K tensors of scores. Returns a scalar.
    """
    return torch.stack([F.relu(1 - f.float()).mean() for f in fake]).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 distance between the layers' outputs, averaged over layers, then over K sub-discriminators (L_FM, 2.1.2).

    real, fake: K lists of tensors of equal shapes; no gradients reach `real`. Returns a scalar.
    """
    per_discriminator = [
        torch.stack([(r.detach().float() - f.float()).abs().mean() for r, f in zip(layers, others, strict=True)]).mean()
        for layers, others in zip(real, fake, strict=True)
    ]
    return torch.stack(per_discriminator).mean()
