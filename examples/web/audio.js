// Sound in and out: files and the microphone -> Float32Array [S] at the codec's rate -> something to play.

import { resample } from "./resample.js";

const MAX_BYTES = 100e6;
const MAX_MINUTES = 10; // all of a file is decoded, whatever is kept of it
const MAX_BYTES_UNTIMED = 10e6;

/** The first seconds of an audio file (Blob), mixed to one channel -> Float32Array [S] and the seconds of all of it. */
export async function readAudio(file, sampleRate, maxSeconds) {
  if (file.size > MAX_BYTES) throw new Error("the file is larger than 100 MB");
  const duration = await durationOf(file);
  if (duration > MAX_MINUTES * 60) throw new Error(`the file is longer than ${MAX_MINUTES} minutes`);
  if (duration === null && file.size > MAX_BYTES_UNTIMED) {
    throw new Error("the file is larger than 10 MB and does not say how long it is");
  }
  const bytes = await file.arrayBuffer();
  const rate = rateOf(bytes); // at any other the browser would resample by a filter of its own
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error("this is no audio that the browser can read");
  }
  const mono = new Float32Array(Math.min(audio.length, maxSeconds * rate));
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / audio.numberOfChannels;
  }
  return { waveform: resample(mono, rate, sampleRate), seconds: audio.duration };
}

/** The seconds of an audio file by its metadata; null where they are not found, as in what is recorded here. */
async function durationOf(file) {
  const audio = new Audio();
  const url = URL.createObjectURL(file);
  const duration = await new Promise((resolve) => {
    audio.onloadedmetadata = () => resolve(Number.isFinite(audio.duration) ? audio.duration : null);
    audio.onerror = () => resolve(null);
    audio.preload = "metadata";
    audio.src = url;
  });
  audio.removeAttribute("src");
  audio.load(); // lets go of the file
  URL.revokeObjectURL(url);
  return duration;
}

/** The sample rate in the header of a WAV or FLAC file; 48 kHz for all others, as what is recorded here has. */
function rateOf(bytes) {
  const view = new DataView(bytes);
  const text = (offset) => String.fromCharCode(...new Uint8Array(bytes.slice(offset, offset + 4)));
  const number = (offset) => (offset + 4 <= bytes.byteLength ? view.getUint32(offset, true) : 0);
  let rate = 0;
  if (text(0) === "fLaC" && number(18)) rate = view.getUint32(18) >>> 12;
  if (text(0) === "RIFF" && text(8) === "WAVE") {
    let chunk = 12; // its name, its size, its bytes, and one more where these are odd
    while (number(chunk) && text(chunk) !== "fmt ") chunk += 8 + number(chunk + 4) + (number(chunk + 4) % 2);
    rate = number(chunk + 12);
  }
  return rate >= 8000 && rate <= 96000 ? rate : 48000; // those that every browser decodes to
}

/** Start to record; the promise gives a function that stops and gives the recording (Blob). */
export async function record() {
  if (!navigator.mediaDevices) throw new Error("the browser gives no microphone to pages that are not on this machine");
  const untouched = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: untouched });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    throw new Error(denied ? "the microphone was not permitted" : "no microphone was found");
  }
  const recorder = new MediaRecorder(stream, { audioBitsPerSecond: 256000 });
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve)); // by us, or because the microphone is gone
  recorder.start();
  return async () => {
    if (recorder.state !== "inactive") recorder.stop();
    await ended;
    stream.getTracks().forEach((track) => track.stop());
    return new Blob(chunks, { type: recorder.mimeType });
  };
}

/** Float32Array [S] -> a WAV file of 16 bits (Blob). */
export function wavFile(waveform, sampleRate) {
  const samples = Int16Array.from(waveform, (x) => Math.round(32767 * Math.max(-1, Math.min(1, x))));
  const header = new DataView(new ArrayBuffer(44));
  const text = (offset, word) => [...word].forEach((c, i) => header.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + samples.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // bytes of the format
  header.setUint16(20, 1, true); // integers
  header.setUint16(22, 1, true); // channel
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, 2 * sampleRate, true); // bytes a second
  header.setUint16(32, 2, true); // bytes a sample
  header.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}
