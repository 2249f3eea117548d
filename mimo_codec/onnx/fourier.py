"""The Fourier transforms of the codec in matrix products of real numbers, which every ONNX runtime has on every device.

A transform of N = A B points is done in two rounds (Cooley and Tukey 1965): A-point transforms, a rotation of each
value, B-point transforms. That is an eighth of the work of one N x N product at N = 960, and rounds hardly more than a
fast transform does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def factors(n: int) -> tuple[int, int]:
    """(A, B) with A B = n, as near to each other as they can be, A the larger."""
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return n // small, small


def _angles(rows: int, columns: int, n: int) -> Tensor:
    """2 pi row column / n: [rows, columns] float64; the product is reduced first, so that it stays exact."""
    product = torch.arange(rows)[:, None] * torch.arange(columns)
    return product.remainder(n).double() * (2 * math.pi / n)


def _stack(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The matrix [[a, b], [c, d]] in float32."""
    return torch.cat((torch.cat((a, b), dim=1), torch.cat((c, d), dim=1))).float()


class RealFourier(nn.Module):
    """Real frames [..., N] -> spectrum, real and imaginary parts [..., N // 2 + 1], as torch.fft.rfft."""

    first: Tensor
    cos: Tensor
    sin: Tensor
    second: Tensor

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.a, self.b = factors(n)
        self.num_bins = n // 2 + 1
        rows = -(-self.num_bins // self.a)  # bin = k1 + A k2, k2 < rows
        angle = _angles(self.a, self.a, self.a)
        self.register_buffer("first", torch.cat((angle.cos(), -angle.sin()), dim=1).float(), persistent=False)
        angle = _angles(self.b, self.a, n)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        angle = _angles(self.b, rows, self.b)
        second = _stack(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        self.register_buffer("second", second, persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = frames.unflatten(-1, (self.a, self.b)).transpose(-1, -2)  # sample n = B n1 + n2: [..., n2, n1]
        real, imaginary = (x @ self.first).chunk(2, dim=-1)  # [..., n2, k1]
        real, imaginary = real * self.cos + imaginary * self.sin, imaginary * self.cos - real * self.sin
        x = torch.cat((real, imaginary), dim=-2).transpose(-1, -2) @ self.second  # [..., k1, 2 k2]
        real, imaginary = (part.transpose(-1, -2).flatten(-2) for part in x.chunk(2, dim=-1))
        return real[..., : self.num_bins], imaginary[..., : self.num_bins]


class InverseRealFourier(nn.Module):
    """Spectrum, real and imaginary parts [..., N // 2 + 1], -> real frames [..., N], as torch.fft.irfft."""

    counted: Tensor
    first: Tensor
    cos: Tensor
    sin: Tensor
    second: Tensor

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.a, self.b = factors(n)
        self.num_bins = n // 2 + 1
        self.rows = -(-self.num_bins // self.a)
        counted = torch.full((self.rows * self.a,), 2.0, dtype=torch.float64)  # bins stand for their mirror images too
        counted[0] = 1
        if n % 2 == 0:
            counted[n // 2] = 1
        counted[self.num_bins :] = 0
        angle = _angles(self.rows, self.b, self.b)
        self.register_buffer("first", _stack(angle.cos(), angle.sin(), -angle.sin(), angle.cos()), persistent=False)
        self.register_buffer("counted", (counted / n).float(), persistent=False)
        angle = _angles(self.a, self.b, n)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        angle = _angles(self.a, self.a, self.a)
        self.register_buffer("second", torch.cat((angle.cos(), -angle.sin())).float(), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        parts = []
        for part in (real, imaginary):
            part = nn.functional.pad(part, (0, self.rows * self.a - self.num_bins)) * self.counted
            parts.append(part.unflatten(-1, (self.rows, self.a)).transpose(-1, -2))  # [..., k1, k2]
        real, imaginary = (torch.cat(parts, dim=-1) @ self.first).chunk(2, dim=-1)  # [..., k1, n2]
        real, imaginary = real * self.cos - imaginary * self.sin, imaginary * self.cos + real * self.sin
        x = torch.cat((real, imaginary), dim=-2).transpose(-1, -2) @ self.second  # [..., n2, n1]
        return x.transpose(-1, -2).flatten(-2)
