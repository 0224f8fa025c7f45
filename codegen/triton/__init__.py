"""Target `triton`: Triton kernels made ahead of time, and the plan that launches them."""
