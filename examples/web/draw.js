// Waveforms, spectrograms and codes on canvases, as wide as these are on the screen.

const FFT_SIZE = 1024;
const FLOOR_DB = -80;
const STOPS = [[18, 18, 36], [62, 36, 104], [150, 50, 110], [226, 96, 76], [250, 178, 90], [252, 248, 200]];

/** Make the canvas sharp, empty it and give its context. */
function prepare(canvas) {
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  return canvas.getContext("2d");
}

/** Least and greatest sample below every pixel. */
export function drawWaveform(canvas, waveform) {
  const context = prepare(canvas);
  const { width, height } = canvas;
  context.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x++) {
    const part = waveform.subarray((x * waveform.length) / width, Math.ceil(((x + 1) * waveform.length) / width));
    const low = Math.max(-1, part.reduce((a, b) => Math.min(a, b), 0));
    const high = Math.min(1, part.reduce((a, b) => Math.max(a, b), 0));
    context.fillRect(x, ((1 - high) * height) / 2, 1, Math.max(1, ((high - low) * height) / 2));
  }
}

/** Power over time and mel-scaled frequency, in dB below a full-scale sine. */
export function drawSpectrogram(canvas, waveform, sampleRate) {
  const context = prepare(canvas);
  const { width, height } = canvas;
  const image = context.createImageData(width, height);
  const top = mel(sampleRate / 2);
  for (let x = 0; x < width; x++) {
    const power = powerSpectrum(waveform, Math.round(((x + 0.5) * waveform.length) / width));
    for (let y = 0; y < height; y++) {
      const [from, to] = [height - y - 1, height - y].map((row) => (hertz((row * top) / height) * FFT_SIZE) / sampleRate);
      const bins = power.subarray(Math.floor(from), Math.max(Math.floor(from) + 1, Math.ceil(to)));
      const decibels = 10 * Math.log10(Math.max(...bins) + 1e-12);
      image.data.set(colour(1 - decibels / FLOOR_DB), 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/** Rows of codes, the first codebook on top; those from `used` on are faint. */
export function drawCodes(canvas, rows, sizes, used) {
  const context = prepare(canvas);
  const { width, height } = canvas;
  const numFrames = rows[0].length;
  const gap = Math.round(devicePixelRatio);
  rows.forEach((row, i) => {
    const y = Math.round((i * height) / rows.length);
    const rowHeight = Math.round(((i + 1) * height) / rows.length) - y - gap;
    context.globalAlpha = i < used ? 1 : 0.15;
    row.forEach((code, t) => {
      const x = Math.floor((t * width) / numFrames);
      context.fillStyle = `rgb(${colour((code + 0.5) / sizes[i]).slice(0, 3)})`;
      context.fillRect(x, y, Math.ceil(((t + 1) * width) / numFrames) - x, rowHeight);
    });
  });
}

const mel = (frequency) => Math.log1p(frequency / 700);
const hertz = (mels) => 700 * Math.expm1(mels);

/** 0..1 -> red, green, blue and opacity. */
function colour(value) {
  const position = Math.max(0, Math.min(1, value)) * (STOPS.length - 1);
  const index = Math.min(Math.floor(position), STOPS.length - 2);
  const mixed = STOPS[index].map((a, i) => a + (STOPS[index + 1][i] - a) * (position - index));
  return [...mixed, 255];
}

const HANN = Float32Array.from({ length: FFT_SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT_SIZE));

/** |DFT|^2 of the samples around `centre`, 1 for a full-scale sine: Float32Array [FFT_SIZE / 2 + 1]. */
function powerSpectrum(waveform, centre) {
  const start = centre - FFT_SIZE / 2;
  const real = HANN.map((weight, i) => weight * (waveform[start + i] ?? 0));
  const imaginary = new Float32Array(FFT_SIZE);
  transform(real, imaginary);
  const scale = (4 / FFT_SIZE) ** 2;
  return Float32Array.from({ length: FFT_SIZE / 2 + 1 }, (_, k) => scale * (real[k] ** 2 + imaginary[k] ** 2));
}

/** The discrete Fourier transform in place, by Cooley and Tukey's radix 2. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const cos = Math.cos((Math.PI * k) / half);
      const sin = -Math.sin((Math.PI * k) / half);
      for (let i = k; i < size; i += 2 * half) {
        const j = i + half;
        const re = real[j] * cos - imaginary[j] * sin;
        const im = real[j] * sin + imaginary[j] * cos;
        real[j] = real[i] - re;
        imaginary[j] = imaginary[i] - im;
        real[i] += re;
        imaginary[i] += im;
      }
    }
  }
}
