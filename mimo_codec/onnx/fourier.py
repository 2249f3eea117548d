"""Short-time Fourier transforms and their inverse in matrix products of real numbers, which every ONNX runtime has.

A transform of N = A B points takes two rounds (Cooley and Tukey 1965): sample n = B n1 + n2, bin k = k1 + A k2; A-point
transforms over n1, then, with the rotation between them, B-point transforms over n2. That is an eighth of the work of
one N x N product at N = 960, and rounds hardly more than a fast transform does. Frames are real: k1 <= A / 2 is enough.

Windows are inside the matrices, and frames are the last dimension from end to end, so that what is moved between the
products is moved in long rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.common.rounding import ceil_div


def factors(n: int, hop: int) -> tuple[int, int]:
    """(A, B) with A B = n, B the largest divisor of hop that is at most A: a hop is then whole rows of B samples."""
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0 and hop % k == 0)
    return n // small, small


def _angles(product: Tensor, n: int) -> Tensor:
    """2 pi product / n, float64; the product is reduced first, so that it stays exact."""
    return product.remainder(n).double() * (2 * math.pi / n)


class _Transform(nn.Module):
    """What both directions share: which bins there are, and in which order.

    Spectra are [B, P, M], P >= N // 2 + 1. Row p is of bin `bins[p]`; where `mirrored[p]`, of its complex conjugate;
    and where `again[p]`, of a bin that another row has already.
    """

    first: Tensor
    second: Tensor

    def __init__(self, window: Tensor, hop: int):
        """window: [N]; frames of N samples start every `hop` samples."""
        super().__init__()
        n = len(window)
        self.a, self.b = factors(n, hop)
        self.hop, self.num_hops = hop, ceil_div(n, hop)
        n1, n2 = torch.arange(self.a), torch.arange(self.b)
        k1 = torch.arange(self.a // 2 + 1)[:, None]
        k = k1 + self.a * n2  # [k1, k2]
        ends = ((k1 == 0) | (2 * k1 == self.a)).expand_as(k)  # whose mirror images are here too
        self.bins, self.mirrored = torch.minimum(k, n - k).flatten(), (2 * k > n).flatten()
        self.again = self.mirrored & ends.flatten()
        self._outer = _angles(k1 * n1, self.a)  # [k1, n1]
        self._inner = _angles(k[..., None] * n2, n)  # [k1, k2, n2]
        self._weights = torch.where(ends, 1.0, 2.0).double()[..., None] / n  # of each bin in a real sum
        self._window = window.double().unflatten(0, (self.a, self.b)).T  # [n2, n1]


class Analysis(_Transform):
    """Sound in hops [B, M + r - 1, hop] -> spectra of the M windowed frames of r hops: real, imaginary [B, P, M].

    All float64, see mimo_codec.codec.mel.
    """

    def __init__(self, window: Tensor, hop: int):
        """window: [r hop], of one frame; hop: samples from a frame to the next."""
        super().__init__(window, hop)
        parts = torch.stack((self._outer.cos(), -self._outer.sin()), dim=1).flatten(0, 1)  # [(k1, part), n1]
        self.register_buffer("first", parts * self._window[:, None], persistent=False)
        cos, sin = self._inner.cos(), self._inner.sin()
        second = torch.cat((torch.cat((cos, sin), dim=2), torch.cat((-sin, cos), dim=2)), dim=1)
        self.register_buffer("second", second, persistent=False)  # [k1, (part, k2), (part, n2)]

    def forward(self, hops: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """num_frames: M."""
        x = hops.unflatten(2, (-1, self.b)).permute(0, 3, 2, 1)  # [B, n2, rows of a hop, hops]
        frames = torch.cat([x[..., i : i + num_frames] for i in range(self.num_hops)], dim=2)[:, :, : self.a]
        x = (self.first @ frames).unflatten(2, (-1, 2))  # [B, n2, k1, part, M]
        x = self.second @ x.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, k1, (part, k2), M]
        real, imaginary = x.chunk(2, dim=2)
        return real.flatten(1, 2), imaginary.flatten(1, 2)


class Synthesis(_Transform):
    """Spectra, real and imaginary parts [B, P, M], -> windowed frames of r hops, overlapped: [B, M + r - 1, hop]."""

    def __init__(self, window: Tensor, hop: int):
        """window: [r hop], of one frame; hop: samples from a frame to the next."""
        super().__init__(window, hop)
        cos, sin = self._inner.cos() * self._weights, self._inner.sin() * self._weights
        conjugate = torch.where(self.mirrored, -1.0, 1.0).view(cos.shape[0], -1, 1)
        first = torch.cat((torch.cat((cos, sin), dim=2), torch.cat((-sin, cos), dim=2) * conjugate), dim=1)
        self.register_buffer("first", first.mT.float(), persistent=False)  # [k1, (part, n2), (part, k2)]
        parts = torch.stack((self._outer.cos(), -self._outer.sin()), dim=1).flatten(0, 1).T  # [n1, (k1, part)]
        self.register_buffer("second", (parts * self._window[..., None]).float(), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Compute the sum of overlapping frames from their spectra."""
        x = torch.cat([part.unflatten(1, (-1, self.b)) for part in (real, imaginary)], dim=2)
        x = (self.first @ x).unflatten(2, (2, -1))  # [B, k1, part, n2, M]
        frames = self.second @ x.permute(0, 3, 1, 2, 4).flatten(2, 3)  # [B, n2, n1, M]
        rows = self.hop // self.b
        frames = F.pad(frames, (0, 0, 0, self.num_hops * rows - self.a)).unflatten(2, (-1, rows))
        parts = [F.pad(frames[:, :, i], (i, self.num_hops - 1 - i)) for i in range(self.num_hops)]
        return torch.stack(parts).sum(0).permute(0, 3, 2, 1).flatten(2)
