"""The codec as ONNX graphs."""
