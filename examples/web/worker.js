// The graphs, run by onnxruntime-web beside the page so that it stays responsive. Answers {id, result} or {id, error}.

import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { readMetadata } from "./metadata.js";

const MAX_THREADS = 4;
const sessions = {};

// Threads share memory, which browsers allow only to pages that are isolated from other origins.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;

const actions = {
  /** Load the graphs below a URL; what they say of themselves. */
  async load(folder) {
    const found = {};
    for (const name of ["encoder", "decoder"]) {
      const file = await download(`${folder}/${name}.onnx`);
      found[name] = readMetadata(file);
      sessions[name] = await ort.InferenceSession.create(file);
    }
    if (found.encoder.export_id !== found.decoder.export_id) {
      throw new Error("encoder.onnx and decoder.onnx come from different exports");
    }
    return found.encoder;
  },

  /** Float32Array [S] -> codes, Int32Array [Q * T] in rows of T, and T. */
  async encode(waveform) {
    const { codes, num_frames: frames } = await sessions.encoder.run({
      waveform: new ort.Tensor("float32", waveform, [1, waveform.length]),
      lengths: integers([waveform.length]),
      context: integers([0, 0]),
    });
    return { codes: Int32Array.from(codes.data, Number), numFrames: Number(frames.data[0]) };
  },

  /** The first rows of codes, Int32Array [q * T], and T -> Float32Array of at least the original's samples. */
  async decode({ codes, numFrames }) {
    const { waveform } = await sessions.decoder.run({
      codes: integers(codes, [1, codes.length / numFrames, numFrames]),
      lengths: integers([numFrames]),
    });
    return waveform.data;
  },
};

function integers(values, shape = [values.length]) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is not there`);
  return new Uint8Array(await response.arrayBuffer());
}

self.onmessage = async ({ data: { id, action, argument } }) => {
  try {
    self.postMessage({ id, result: await actions[action](argument) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
};
