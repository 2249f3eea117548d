"""Training of the codebooks: start, upkeep, padding, gradients."""

import pytest
import torch

from mimo_codec import CodecConfig
from mimo_codec.quantizer import ResidualQuantizer


def clustered(num_vectors: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, dim, generator=generator)
    chosen = torch.randint(200, (num_vectors,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn(num_vectors, dim, generator=generator)


def make_quantizer() -> ResidualQuantizer:
    torch.manual_seed(0)
    config = CodecConfig.preset("tiny").replace(codebook_size=[128, 64, 32], num_quantizers=3)
    return ResidualQuantizer(config.quantizer, 16, decay=0.9)


@pytest.fixture()
def quantizer() -> ResidualQuantizer:
    return make_quantizer()


def test_k_means_start_leaves_no_codebook_dead(quantizer):
    features = clustered(4000, 16)
    quantizer.forget()
    assert not quantizer.fitted
    quantizer.fit(features, 600)
    assert quantizer.fitted
    codes = quantizer.encode(features, 3)
    for size, row in zip((128, 64, 32), codes, strict=True):
        assert len(row.unique()) > 0.9 * size
    errors = [(features - quantizer.decode(codes[:q])).square().mean() for q in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_codebooks_follow_the_data_only_in_training(quantizer):
    quantizer.fit(clustered(4000, 16), 600)
    shifted = clustered(600, 16, seed=1)[None] + 1.0
    before = quantizer.codebook(0).clone()
    quantizer.eval()(shifted)
    assert torch.equal(quantizer.codebook(0), before)
    quantizer.train()(shifted, update=False)
    assert torch.equal(quantizer.codebook(0), before)
    quantizer(shifted)
    assert not torch.equal(quantizer.codebook(0), before)


def test_a_step_is_the_moving_average_of_the_chosen_vectors():
    """By hand, for one codebook of two entries."""
    config = CodecConfig.preset("tiny").replace(codebook_size=[2], num_quantizers=1, threshold_ema_dead_code=0)
    quantizer = ResidualQuantizer(config.quantizer, 2, decay=0.75).train()
    book = quantizer.vq.layers[0]._codebook
    book.embed.copy_(torch.tensor([[[0.0, 0.0], [10.0, 10.0]]]))
    book.cluster_size.copy_(torch.tensor([[4.0, 4.0]]))
    book.embed_avg.copy_(4 * book.embed)
    output = quantizer(torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]]))
    assert output.codes.tolist() == [[[0, 0, 1]]]
    # sizes 0.75 x 4 + 0.25 x (2, 1); sums 0.75 x (0, 40) + 0.25 x (3, 9)
    assert book.cluster_size[0].tolist() == pytest.approx([3.5, 3.25])
    assert quantizer.codebook(0)[:, 0].tolist() == pytest.approx([0.75 / 3.5, 32.25 / 3.25], rel=1e-4)


def test_padding_and_broken_values_teach_nothing():
    features = clustered(60, 16)[None]
    padded = torch.cat((features, torch.full((1, 7, 16), 50.0), torch.full((1, 1, 16), torch.nan)), dim=1)
    mask = torch.arange(68)[None] < 60
    results = []
    for x, m in ((features, None), (padded, mask), (padded[:, [*range(60), 67]], None)):
        quantizer = make_quantizer().train()
        quantizer.fit(clustered(4000, 16), 600)
        for layer in quantizer.vq.layers:
            layer._codebook.threshold_ema_dead_code = 0  # which vectors revive depends on how many there are
        quantizer(x, mask=m)
        results.append(torch.cat([quantizer.codebook(i) for i in range(3)]))
    assert torch.allclose(results[0], results[1]) and torch.allclose(results[0], results[2])


def test_dead_entries_are_revived(quantizer):
    quantizer.fit(clustered(4000, 16), 600)
    moved = clustered(4000, 16, seed=2)[None] + 20.0
    used = [len(quantizer.encode(moved, 1).unique())]
    quantizer.train()
    for _ in range(60):
        quantizer(moved[:, torch.randperm(4000)[:600]])
    used.append(len(quantizer.encode(moved, 1).unique()))
    assert used[1] > 100 and used[1] > 3 * used[0]


def test_gradients_pass_straight_through(quantizer):
    features = clustered(100, 16)[None].requires_grad_()
    output = quantizer.eval()(features)
    output.quantized.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))
    assert torch.allclose(output.quantized, quantizer.decode(output.codes), atol=1e-5)
    assert torch.allclose(output.partial[1], quantizer.decode(output.codes[..., :2, :]), atol=1e-5)
    assert torch.equal(output.codes, quantizer.encode(features, 3))
