// The page: what is opened or recorded goes through the codec and is shown.

import { readAudio, record, wavFile } from "./audio.js";
import { Codec } from "./codec.js";
import { drawCodes, drawSpectrogram, drawWaveform } from "./draw.js";

const MIN_SECONDS = 0.1;
const MAX_SECONDS = 60;

const element = (id) => document.getElementById(id);
const numCodebooks = () => Number(element("codebooks").value);

/** What is on the page, for whoever looks from the console: waveforms, rows of codes. */
const shown = { original: null, codes: null, reconstruction: null, count: 0 };
window.mimoCodec = shown;

let codec;
let busy = false;
let stopRecording = null;

start();

async function start() {
  let example = null;
  await guarded("The codec could not be loaded", async () => {
    codec = await Codec.load(new URL("graphs", document.baseURI).href);
    element("model").textContent = `The codec ${codec.name.split("@")[0]}`;
    element("codebooks").max = element("codebooks").value = codec.numCodebooks;
    element("pcm").textContent = `${(codec.sampleRate * 16) / 1000} kbit/s`;
    showRate();
    example = await fetchExample();
    say("Ready: open a file with speech, or record some.");
  });
  if (!codec) return;
  element("file").onchange = () => open(element("file").files[0]);
  element("record").onclick = toggleRecording;
  element("codebooks").oninput = () => {
    showRate();
    if (shown.codes && !busy) guarded("The codes could not be decoded", reconstruct);
  };
  new ResizeObserver(draw).observe(element("result"));
  matchMedia("(prefers-color-scheme: dark)").onchange = draw;
  await open(example);
  if (shown.reconstruction) say("This is an example: open a file with speech, or record some.");
}

/** The recording to begin with (Blob), if there is one beside the page. */
async function fetchExample() {
  try {
    const answer = await fetch("example.wav");
    return answer.ok ? await answer.blob() : null;
  } catch {
    return null;
  }
}

async function toggleRecording() {
  let recording;
  await guarded("The microphone could not be used", async () => {
    const stop = stopRecording;
    if (!stop) document.querySelectorAll("audio").forEach((player) => player.pause()); // or they would be recorded
    stopRecording = stop ? null : await record();
    element("record").textContent = stop ? "Record" : "Stop";
    element("record").setAttribute("aria-pressed", String(!stop));
    if (stop) recording = await stop();
    else say("Recording …");
  });
  await open(recording);
}

/** Encode an audio file (Blob), decode the codes and show everything. */
async function open(file) {
  if (!file) return;
  await guarded("The sound could not be coded", async () => {
    say("Reading …");
    const { waveform: original, seconds: whole } = await readAudio(file, codec.sampleRate, MAX_SECONDS);
    element("file").value = ""; // or the same file could not be opened again
    if (whole < MIN_SECONDS) throw new Error("it is shorter than a tenth of a second");
    say("Encoding …");
    const [codes, seconds] = await timed(codec.encode(original));
    Object.assign(shown, { original, codes, reconstruction: null, count: 0 });
    element("duration").textContent = (whole > MAX_SECONDS ? `${MAX_SECONDS} of ` : "") + `${whole.toFixed(1)} s`;
    element("encoded").textContent = speed(seconds);
    element("codes").setAttribute("aria-label", `Codes: ${codes.length} codebooks, ${codes[0].length} frames`);
    element("result").hidden = false;
    play("original", original, 0);
    showRate();
    await reconstruct();
  });
}

/** Decode as many codebooks as the slider says, until it stays where it is. */
async function reconstruct() {
  while (shown.count !== numCodebooks()) {
    const count = numCodebooks();
    say("Decoding …");
    const [reconstruction, seconds] = await timed(codec.decode(shown.codes.slice(0, count), shown.original.length));
    play("reconstruction", reconstruction, shown.reconstruction ? element("reconstruction-audio").currentTime : 0);
    Object.assign(shown, { reconstruction, count });
    element("decoded").textContent = speed(seconds);
    draw();
  }
  say(`Reconstructed from ${shown.count} of ${codec.numCodebooks} codebooks.`);
}

/** Run something; what it throws is shown as one sentence. Nothing can be opened or recorded meanwhile. */
async function guarded(failure, action) {
  busy = true;
  document.body.dataset.state = "busy";
  element("error").hidden = true;
  element("file").disabled = element("record").disabled = true;
  let state = "ready";
  try {
    await action();
  } catch (error) {
    state = "error";
    element("error").textContent = `${failure}: ${error.message.split("\n")[0].replace(/\.*$/, ".")}`;
    element("error").hidden = false;
    say("");
  }
  element("record").disabled = !codec;
  element("file").disabled = element("codebooks").disabled = !codec || stopRecording !== null;
  busy = false;
  document.body.dataset.state = state;
}

async function timed(promise) {
  const start = performance.now();
  return [await promise, (performance.now() - start) / 1000];
}

function say(text) {
  element("status").textContent = text;
}

/** Seconds of work, and how many times faster that is than the sound. */
function speed(seconds) {
  const factor = shown.original.length / codec.sampleRate / seconds;
  return `${seconds.toFixed(2)} s (${factor.toFixed(factor < 10 ? 1 : 0)} ×)`;
}

/** What the codebooks that are chosen cost. */
function showRate() {
  const count = numCodebooks();
  element("count").textContent = count;
  element("bitrate").textContent = `${codec.bitrate(count) / 1000} kbit/s`;
  if (!shown.codes) return;
  const bytes = Math.ceil((codec.frameBits(count) * shown.codes[0].length) / 8);
  element("size").textContent = `${bytes.toLocaleString("en")} bytes`;
}

/** Give a player a waveform, from some second on; it goes on playing if it does. */
function play(name, waveform, second) {
  const audio = element(`${name}-audio`);
  const playing = !audio.paused && second > 0;
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(wavFile(waveform, codec.sampleRate));
  audio.currentTime = second;
  if (playing) audio.play();
}

function draw() {
  for (const name of ["original", "reconstruction"]) {
    if (!shown[name]) continue;
    drawWaveform(element(`${name}-waveform`), shown[name]);
    drawSpectrogram(element(`${name}-spectrogram`), shown[name], codec.sampleRate);
  }
  if (shown.codes) drawCodes(element("codes"), shown.codes, codec.codebookSizes, numCodebooks());
}
