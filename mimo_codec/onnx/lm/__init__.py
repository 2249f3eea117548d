"""The language model as ONNX graphs."""
