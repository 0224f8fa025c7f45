"""The triton target: cubins for NVIDIA GPUs, and the plan of their launches."""
