"""A speech file to codes, to a .mimo file, and back to speech.

python examples/tokenize_file.py [IN] [OUT_FOLDER]
"""

import sys
from pathlib import Path

from mimo_codec import AudioCodes, MimoCodec, save_audio

source = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "speech.wav")
folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")

codec = MimoCodec.from_pretrained("nano")
codes = codec.encode(source)
print(codes)
print(f"first frame: {codes.codes[:, 0].tolist()}")

packed = folder / source.with_suffix(".mimo").name
codes.save(packed)
print(f"{packed}: {packed.stat().st_size} bytes for {codes.duration:.2f} s")

for num_quantizers in (2, 4, 8):
    waveform = codec.decode(AudioCodes.load(packed).first(num_quantizers))
    target = folder / f"{source.stem}.{num_quantizers}.wav"
    save_audio(target, waveform, codec.sample_rate)
    print(f"{target}: {len(waveform)} samples from {num_quantizers} codebooks")
