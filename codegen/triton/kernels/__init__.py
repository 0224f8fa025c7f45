"""Hand-written Triton kernels. They import Triton and one another, nothing else."""
