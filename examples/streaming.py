"""Both directions as streams: 80 ms of audio in, codes out; codes in, audio out, with nothing but a state in between.

python examples/streaming.py [IN]
"""

import sys
import time
from pathlib import Path

import torch

from mimo_codec import MimoCodec, load_audio, resample

source = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "speech.wav")
codec = MimoCodec.from_pretrained("nano")
waveform = resample(*load_audio(source), codec.sample_rate)
print(f"latency: encode {1000 * codec.encode_latency:.0f} ms, decode {1000 * codec.decode_latency:.0f} ms")

chunks = waveform.split(codec.sample_rate * 80 // 1000)
encoder_state = decoder_state = None
decoded = []
start = time.perf_counter()
for number, chunk in enumerate(chunks, start=1):
    last = number == len(chunks)
    codes, encoder_state = codec.encode_chunk(chunk, encoder_state, last)
    samples, decoder_state = codec.decode_chunk(codes, decoder_state, last)
    decoded.append(samples)
seconds = time.perf_counter() - start

streamed = torch.cat(decoded)[: len(waveform)]
at_once = codec.decode(codec.encode(waveform, codec.sample_rate))
print(f"{len(chunks)} chunks in {seconds:.2f} s for {len(waveform) / codec.sample_rate:.2f} s of audio")
print(f"largest difference from coding at once: {(streamed - at_once).abs().max():.1e}")
