// Sound in and out: files and the microphone -> Float32Array [S] at the codec's rate -> something to play.

const MAX_BYTES = 100e6;

/** An audio file (Blob), resampled and mixed to one channel by the browser -> Float32Array [S]. */
export async function readAudio(file, sampleRate) {
  if (file.size > MAX_BYTES) throw new Error("the file is larger than 100 MB");
  const context = new OfflineAudioContext(1, 1, sampleRate);
  let audio;
  try {
    audio = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("this is no audio that the browser can read");
  }
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((sample, i) => (mono[i] += sample / audio.numberOfChannels));
  }
  return mono;
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
  recorder.start();
  return () =>
    new Promise((resolve) => {
      recorder.onstop = () => resolve(new Blob(chunks, { type: recorder.mimeType }));
      recorder.stop();
      stream.getTracks().forEach((track) => track.stop());
    });
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
