// The codec as the page uses it; the work is done in worker.js.

/** A codec whose graphs mimo-codec exported. */
export class Codec {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #nextId = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "the worker did not start"));
      this.#waiting.clear();
    };
  }

  #ask(action, argument) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, action, argument });
    });
  }

  /** Load encoder.onnx and decoder.onnx below a URL. */
  static async load(folder) {
    const codec = new Codec();
    const { model_id: name, num_quantizers: count, config } = await codec.#ask("load", folder);
    if (config.segment_seconds !== null) throw new Error("it codes in segments, for which this page is not made");
    codec.name = name;
    codec.sampleRate = config.sampling_rate;
    codec.samplesPerFrame = config.hop_length * config.stride_size * config.avg_pooler;
    const sizes = [config.codebook_size].flat(); // a short list repeats its last entry
    codec.codebookSizes = Array.from({ length: count }, (_, i) => sizes[Math.min(i, sizes.length - 1)]);
    return codec;
  }

  get numCodebooks() {
    return this.codebookSizes.length;
  }

  /** Bits of one frame in the first `count` codebooks. */
  frameBits(count) {
    return this.codebookSizes.slice(0, count).reduce((sum, size) => sum + Math.ceil(Math.log2(size)), 0);
  }

  /** Bits a second of the first `count` codebooks. */
  bitrate(count) {
    return (this.frameBits(count) * this.sampleRate) / this.samplesPerFrame;
  }

  /** Float32Array [S] -> rows of codes, one Int32Array [T] for each codebook. */
  async encode(waveform) {
    const { codes, numFrames } = await this.#ask("encode", waveform);
    return this.codebookSizes.map((_, i) => codes.slice(i * numFrames, (i + 1) * numFrames));
  }

  /** The first rows of codes -> Float32Array of `numSamples`. */
  async decode(rows, numSamples) {
    const numFrames = rows[0].length;
    const codes = new Int32Array(rows.length * numFrames);
    rows.forEach((row, i) => codes.set(row, i * numFrames));
    return (await this.#ask("decode", { codes, numFrames })).slice(0, numSamples);
  }
}
