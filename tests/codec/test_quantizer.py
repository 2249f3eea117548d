"""Training of the codebooks: start, upkeep, padding, gradients."""

import copy
import pickle

import pytest
import torch
import vector_quantize_pytorch
from goldens import streaming_codec

from mimo_codec import CodecConfig
from mimo_codec.codec.quantizer import Quantizer
from mimo_codec.codec.residual_fsq import ResidualFSQ
from mimo_codec.codec.residual_vq import ResidualVQ


def clustered(num_vectors: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, dim, generator=generator)
    chosen = torch.randint(200, (num_vectors,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn(num_vectors, dim, generator=generator)


def learn(quantizer: Quantizer, *batches: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """One step of the codebooks over batches [B, T, D]."""
    for batch in batches:
        quantizer.collect(batch, quantizer(batch), mask)
    quantizer.update()


def make_quantizer() -> ResidualVQ:
    torch.manual_seed(0)
    config = CodecConfig.preset("tiny").replace(codebook_size=[128, 64, 32], num_quantizers=3)
    return ResidualVQ(config.quantizer, 16, decay=0.9)


@pytest.fixture()
def quantizer() -> ResidualVQ:
    return make_quantizer()


def test_start_is_the_one_of_the_library():
    """Against vector-quantize-pytorch, whose names the released files have: random entries, then k-means."""
    config = CodecConfig.preset("tiny").replace(codebook_size=[128, 64, 32], num_quantizers=3).quantizer
    torch.manual_seed(0)
    ours = ResidualVQ(config, 16)
    torch.manual_seed(0)
    library = vector_quantize_pytorch.ResidualVQ(
        dim=16, num_quantizers=3, codebook_size=(128, 64, 32), threshold_ema_dead_code=0.05, rotation_trick=False
    )
    assert_same_state(ours.vq, library)
    residual = features = clustered(4000, 16)
    torch.manual_seed(0)
    ours.initialize(features, num_per_step=4000)
    torch.manual_seed(0)
    for layer in library.layers:
        layer._codebook.initted.fill_(False)
        layer._codebook.init_embed_(residual[None])
        residual = residual - layer(residual[None], freeze_codebook=True)[0][0].detach()
    assert_same_state(ours.vq, library)


def assert_same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_k_means_start_leaves_no_codebook_dead(quantizer):
    features = clustered(4000, 16)
    quantizer.reset()
    assert not quantizer.is_initialized
    quantizer.initialize(features, 600)
    assert quantizer.is_initialized
    codes = quantizer.encode(features, 3)
    for size, row in zip((128, 64, 32), codes, strict=True):
        assert len(row.unique()) > 0.9 * size
    errors = [(features - quantizer.decode(codes[:q])).square().mean() for q in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_codebooks_move_only_when_told(quantizer):
    quantizer.initialize(clustered(4000, 16), 600)
    shifted = clustered(600, 16, seed=1)[None] + 1.0
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    output = quantizer.train()(shifted)
    quantizer.collect(shifted, output)
    quantizer.discard()
    quantizer.update()
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    learn(quantizer, shifted)
    assert not torch.equal(quantizer.codebook(0), before["vq.layers.0._codebook.embed"][0])


def test_several_batches_of_a_step_count_as_one():
    whole, parts = make_quantizer(), make_quantizer()
    batch = clustered(600, 16, seed=1).view(6, 100, 16)
    for quantizer, batches in ((whole, [batch]), (parts, batch.split(2))):
        torch.manual_seed(0)
        quantizer.initialize(clustered(4000, 16), 600)
        for codebook in quantizer.codebooks:
            codebook.dead_below = 0  # which vectors revive is drawn
        learn(quantizer, *batches)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), parts.state_dict()[name].float(), atol=1e-5), name


def test_codebooks_that_a_step_does_not_use_stay(quantizer):
    quantizer.initialize(clustered(4000, 16), 600)
    features = clustered(600, 16, seed=1)[None] + 1.0
    before = [quantizer.codebook(index).clone() for index in range(3)]
    quantizer.collect(features, quantizer(features, 2))
    quantizer.update()
    same = [torch.equal(quantizer.codebook(index), old) for index, old in enumerate(before)]
    assert same == [False, False, True]


def test_a_step_is_the_moving_average_of_the_chosen_vectors():
    """By hand, for one codebook of two entries."""
    config = CodecConfig.preset("tiny").replace(codebook_size=[2], num_quantizers=1, threshold_ema_dead_code=0)
    quantizer = ResidualVQ(config.quantizer, 2, decay=0.75).train()
    book = quantizer.codebooks[0]
    book.embed.copy_(torch.tensor([[[0.0, 0.0], [10.0, 10.0]]]))
    book.cluster_size.copy_(torch.tensor([[4.0, 4.0]]))
    book.embed_avg.copy_(4 * book.embed)
    features = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]])
    output = quantizer(features)
    quantizer.collect(features, output)
    quantizer.update()
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
        quantizer.initialize(clustered(4000, 16), 600)
        for codebook in quantizer.codebooks:
            codebook.dead_below = 0  # which vectors revive depends on how many there are
        learn(quantizer, x, mask=m)
        results.append(torch.cat([quantizer.codebook(i) for i in range(3)]))
    assert torch.allclose(results[0], results[1]) and torch.allclose(results[0], results[2])


def test_dead_entries_are_revived(quantizer):
    quantizer.initialize(clustered(4000, 16), 600)
    moved = clustered(4000, 16, seed=2)[None] + 20.0
    used = [len(quantizer.encode(moved, 1).unique())]
    quantizer.train()
    for _ in range(60):
        learn(quantizer, moved[:, torch.randperm(4000)[:600]])
    used.append(len(quantizer.encode(moved, 1).unique()))
    assert used[1] > 100 and used[1] > 3 * used[0]


def test_entries_beyond_the_size_of_a_batch_are_revived_too():
    """A codebook of 128 entries, all dead, and batches of 20 vectors: chance decides which entries they replace."""
    config = CodecConfig.preset("tiny").replace(codebook_size=[128], num_quantizers=1, threshold_ema_dead_code=1.0)
    quantizer = ResidualVQ(config.quantizer, 16).train()
    codebook = quantizer.codebooks[0]
    codebook.cluster_size.zero_()
    revived = torch.zeros(128, dtype=torch.bool)
    for seed in range(40):
        vectors = clustered(20, 16, seed)
        learn(quantizer, vectors[None])
        now = (quantizer.codebook(0)[:, None] == vectors).all(-1).any(-1)
        assert seed > 0 or (now.sum() == 20 and now[20:].sum() > 5)
        revived |= now
    assert revived.sum() > 120


def test_gradients_pass_straight_through(quantizer):
    features = clustered(100, 16)[None].requires_grad_()
    output = quantizer.eval()(features)
    output.quantized.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))
    assert torch.allclose(output.quantized, quantizer.decode(output.codes), atol=1e-5)
    assert torch.allclose(output.partial[1], quantizer.decode(output.codes[..., :2, :]), atol=1e-5)
    assert torch.equal(output.codes, quantizer.encode(features, 3))


# ---- finite scalar quantization --------------------------------------------------------------------------------------


def make_fsq(levels: tuple[int, ...] = (8, 5, 3, 2), num_quantizers: int = 3) -> ResidualFSQ:
    torch.manual_seed(0)
    changes = {"quantizer_type": "rfsq", "fsq_levels": list(levels), "num_quantizers": num_quantizers}
    return ResidualFSQ(CodecConfig.preset("tiny").replace(**changes).quantizer, 16)


@pytest.mark.parametrize(("levels", "count"), [((8, 5, 3, 2), 4), ((2,), 12), ((5, 5, 5, 5, 5, 5), 1), ((16, 9), 3)])
def test_codes_and_their_meaning_are_those_of_the_library(levels, count):
    """Against ResidualFSQ of vector-quantize-pytorch, with features far beyond its range too."""
    ours = make_fsq(levels, count)
    library = vector_quantize_pytorch.ResidualFSQ(levels=list(levels), num_quantizers=count, dim=16).eval()
    for name in ("weight", "bias"):
        getattr(library.project_in, name).data = getattr(ours.in_proj, name).data
        getattr(library.project_out, name).data = getattr(ours.out_proj, name).data
    features = torch.cat((clustered(500, 16), 30 * clustered(100, 16, seed=1)))[None]
    quantized, codes = library(features)
    assert torch.equal(ours.encode(features, count), codes.mT)
    torch.testing.assert_close(ours.decode(codes.mT), quantized, atol=1e-5, rtol=1e-5)
    used = [len(row.unique()) for row in codes.mT[0]]
    assert max(used) > ours.config.codebook_sizes[0] / 4 or max(used) > 200


def test_levels_by_hand():
    """Five levels of one number: -1, -0.5, 0, 0.5, 1; a second codebook has them five times finer."""
    fsq = make_fsq((5,), 2)
    assert fsq.codebook(0)[:, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert fsq.codebook(1)[:, 0].tolist() == pytest.approx([-0.2, -0.1, 0, 0.1, 0.2])
    codes, sums = fsq.approximate(torch.tensor([[-2.0], [-0.76], [-0.74], [0.2], [0.3], [0.87], [1.1]]), 2)
    assert codes.tolist() == [[0, 0, 1, 2, 3, 4, 4], [0, 4, 0, 4, 0, 1, 3]]
    assert sums[1, :, 0].tolist() == pytest.approx([-1.2, -0.8, -0.7, 0.2, 0.3, 0.9, 1.1])


def test_projections_learn_and_fixed_codebooks_do_not_commit():
    fsq = make_fsq()
    features = clustered(100, 16)[None].requires_grad_()
    output = fsq(features, 2)
    assert output.codes.shape == (1, 2, 100) and output.partial.shape == (2, 1, 100, 4)
    torch.testing.assert_close(output.quantized, fsq.decode(output.codes))
    assert torch.equal(output.codes, fsq.encode(features, 2)) and not output.latents.requires_grad
    (output.quantized.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fsq.parameters())
    assert features.grad.abs().sum() > 0
    smooth = fsq.project_out(fsq.project_in(features))  # the gradient as if nothing were rounded
    straight = torch.autograd.grad((2 * output.quantized.detach() * smooth).sum(), features)[0]
    torch.testing.assert_close(features.grad, straight)


def test_fixed_codebooks_need_no_start_and_do_not_move():
    fsq = make_fsq()
    before = fsq.fingerprint()
    fsq.reset()
    assert fsq.is_initialized
    learn(fsq, clustered(100, 16)[None])
    assert fsq.fingerprint() == before
    with torch.no_grad():
        fsq.out_proj.bias += 1  # codes now mean something else
    assert fsq.fingerprint() != before


def test_the_fingerprint_is_computed_once(monkeypatch):
    """Not for every chunk of a stream; but again after each change of a weight, in place or by another tensor."""
    codec, calls = copy.deepcopy(streaming_codec()), []
    compute = type(codec.quantizer)._compute_fingerprint
    monkeypatch.setattr(type(codec.quantizer), "_compute_fingerprint", lambda q: calls.append(1) or compute(q))
    codes = codec.encode(torch.zeros(24000), 24000)
    state = None
    for _ in range(5):
        state = codec.decode_chunk(codes, state)[1]
        codec.encode_chunk(torch.zeros(960))
    assert len(calls) == 1
    found = [codec.quantizer.fingerprint()]
    codebook = codec.quantizer.codebooks[1]
    nearest = codebook.nearest(torch.zeros(1, codebook.embed.shape[2]))
    with torch.no_grad():
        codebook.embed[0, nearest] += 1000
    assert codebook.nearest(torch.zeros(1, codebook.embed.shape[2])) != nearest
    found.append(codec.quantizer.fingerprint())
    codebook.embed = codebook.embed + 1
    found.append(codec.quantizer.fingerprint())
    codec.quantizer.load_state_dict({k: v + 1 for k, v in codec.quantizer.state_dict().items()}, assign=True)
    found.append(codec.quantizer.fingerprint())
    assert len(set(found)) == 4 and found[-1] == compute(codec.quantizer)
    assert pickle.loads(pickle.dumps(codec)).quantizer.fingerprint() == found[-1]
