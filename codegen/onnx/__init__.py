"""The onnx target: a graph becomes an ONNX model whose weights lie in a file beside it."""
