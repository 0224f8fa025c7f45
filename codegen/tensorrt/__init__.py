"""The `trt` target: a TensorRT network, built into an engine for several GPUs at once."""
