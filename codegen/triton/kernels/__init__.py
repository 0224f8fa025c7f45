"""Hand-written kernels; they import triton and one another, nothing else."""
