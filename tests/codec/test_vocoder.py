"""ConvNeXt-Vocos against its formula, and what its frames depend on; streams and batches are in the tests of codecs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.codec.convnext_vocoder import ConvNeXtVocoder
from mimo_codec.codec.vocoder import make_vocoder


def make(causal: bool, num_layers: int = 3) -> ConvNeXtVocoder:
    """With every weight drawn at random, so that none is one or zero, as some are before training."""
    changes = {"vocoder_type": "convnext", "vocoder_causal": causal, "vocoder_num_layers": num_layers}
    vocoder = make_vocoder(CodecConfig.preset("tiny").replace(**changes, n_mels=20)).eval()
    assert isinstance(vocoder, ConvNeXtVocoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vocoder.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return vocoder


def vocos(weights: dict[str, Tensor], mel: Tensor, num_layers: int, pad: tuple[int, int]) -> Tensor:
    """The backbone of Vocos (arXiv 2306.00814) as its authors wrote it, [B, C, M] in convolutions; names are theirs."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.conv1d(F.pad(mel.mT, pad), weights["embed.weight"], weights["embed.bias"])
    x = norm(x.mT, "norm").mT
    for layer in (f"convnext.{index}" for index in range(num_layers)):
        dwconv = weights[f"{layer}.dwconv.weight"], weights[f"{layer}.dwconv.bias"]
        y = norm(F.conv1d(F.pad(x, pad), *dwconv, groups=x.shape[1]).mT, f"{layer}.norm")
        y = F.gelu(F.linear(y, weights[f"{layer}.pwconv1.weight"], weights[f"{layer}.pwconv1.bias"]))
        y = F.linear(y, weights[f"{layer}.pwconv2.weight"], weights[f"{layer}.pwconv2.bias"])
        x = x + (weights[f"{layer}.gamma"] * y).mT
    return norm(x.mT, "final_layer_norm")


@pytest.mark.parametrize(("causal", "pad"), [(True, (6, 0)), (False, (3, 3))])
@torch.no_grad()
def test_frames_are_those_of_vocos(causal, pad):
    vocoder = make(causal)
    mel = torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(vocoder.hidden(mel), vocos(vocoder.state_dict(), mel, 3, pad), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("causal", "seen"), [(True, range(50 - 24, 51)), (False, range(50 - 12, 50 + 13))])
def test_a_frame_sees_what_the_latency_says(causal, seen):
    """Four convolutions over seven frames each."""
    vocoder = make(causal)
    mel = torch.randn(1, 100, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
    vocoder.hidden(mel)[0, 50].square().sum().backward()
    assert mel.grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(seen)
    assert vocoder.look_ahead == seen[-1] - 50


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_padding_is_not_heard(causal):
    vocoder = make(causal)
    mel = torch.randn(3, 30, 20, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([30, 17, 1])
    for whole, item, length in zip(vocoder(mel, lengths), mel, lengths.tolist(), strict=True):
        alone = vocoder(item[None, :length])[0]
        torch.testing.assert_close(whole[: length * 240], alone, atol=1e-5, rtol=0)


def test_a_causal_vocoder_comes_earlier():
    latencies = [
        MimoCodec(CodecConfig.preset("nano").replace(vocoder_type="convnext", vocoder_causal=causal)).decode_latency
        for causal in (True, False)
    ]
    # the code frame, the overlap of the inverse STFT, and 3 frames of 10 ms ahead in each of 3 convolutions
    assert latencies == pytest.approx([0.04 + 0.015, 0.04 + 0.015 + 0.09])
    assert latencies[0] < MimoCodec(CodecConfig.preset("nano")).decode_latency


def test_options_of_another_vocoder_are_dropped_and_not_taken():
    config = CodecConfig.preset("tiny").replace(vocoder_type="convnext")
    assert config.vocoder_type == "convnext" and config.to_dict(defaults=True)["vocoder_causal"] is True
    assert not {"vocoder_attention_heads", "vocoder_attn_window_size"} & config.to_dict(defaults=True).keys()
    assert CodecConfig.from_dict(config.to_dict()) == config
    with pytest.raises(MimoError, match="'vocoder_attention_heads' is no option of .*vocoder_type 'convnext'"):
        config.replace(vocoder_attention_heads=2)
    with pytest.raises(MimoError, match="vocoder_causal = 1 is not supported: true or false"):
        config.replace(vocoder_causal=1)
