// Waveform at one sample rate -> waveform at another, by the same filter as in Python (mimo_codec/resampling.py).

const ZERO_CROSSINGS = 6;
const ROLLOFF = 0.99;
const MAX_FLOAT32_CYCLE = 1000;

/** Float32Array [S] -> Float32Array [ceil(S * newRate / origRate)]; beyond its ends the waveform counts as zero. */
export function resample(waveform, origRate, newRate) {
  const divisor = gcd(origRate, newRate);
  const [source, target] = [origRate / divisor, newRate / divisor];
  if (source === target) return waveform;
  const { taps, numTaps } = filter(source, target);
  const before = numTaps / 2 - 1;
  return Float32Array.from({ length: Math.ceil((waveform.length * target) / source) }, (_, n) => {
    const phase = n % target;
    const start = Math.floor((n * source) / target) - before;
    const [from, to] = [Math.max(0, -start), Math.min(numTaps, waveform.length - start)];
    let sum = 0;
    for (let k = from; k < to; k++) sum += taps[phase * numTaps + k] * waveform[start + k];
    return sum;
  });
}

/** A Hann-windowed sinc, once for each of the `target` places of an output among the inputs: taps [target * numTaps]. */
function filter(source, target) {
  // Python places the taps of short cycles in 32 bits; only so are its samples met.
  const round = Math.max(source, target) <= MAX_FLOAT32_CYCLE ? Math.fround : (x) => x;
  const cutoff = Math.min(source, target) * ROLLOFF; // in half cycles per `source` inputs
  const half = Math.ceil((ZERO_CROSSINGS * source) / cutoff);
  const numTaps = 2 * half;
  const taps = new Float32Array(target * numTaps);
  for (let phase = 0; phase < target; phase++) {
    for (let k = 0; k < numTaps; k++) {
      const place = Math.floor((phase * source) / target) + 1 - half + k;
      const t = round(round(round(place / source) - round(phase / target)) * round(cutoff));
      const window = Math.cos((t * Math.PI) / 2 / ZERO_CROSSINGS) ** 2;
      const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
      if (Math.abs(t) < ZERO_CROSSINGS) taps[phase * numTaps + k] = (sinc * window * cutoff) / source;
    }
  }
  return { taps, numTaps };
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}
