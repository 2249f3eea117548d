// What an exported graph says of itself: onnxruntime-web does not show the metadata of a model, so it is read here.

const KEY = "mimo_codec";
const METADATA_PROPS = 14; // of ModelProto: entries of key (1) and value (2)
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;

/** The JSON object that mimo-codec's exporter put into an ONNX file (Uint8Array). */
export function readMetadata(file) {
  for (const entry of fields(file)) {
    if (entry.number !== METADATA_PROPS) continue;
    const [key, value] = [...fields(entry.bytes)].map((field) => new TextDecoder().decode(field.bytes));
    if (key === KEY) return JSON.parse(value);
  }
  throw new Error("these graphs were not exported by mimo-codec");
}

/** Fields of a protocol buffer that hold bytes; the others are passed over. */
function* fields(buffer) {
  let position = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = buffer[position++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  };
  while (position < buffer.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === VARINT) varint();
    else if (kind === BYTES) {
      const length = varint();
      yield { number: tag >> 3, bytes: buffer.subarray(position, position + length) };
      position += length;
    } else position += kind === FIXED64 ? 8 : 4;
  }
}
