"""Tensors of a Hugging Face folder into a GGUF file, in their own precision."""

import gguf
import numpy as np
import torch


def write_tensor(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    """Vectors, and what is f32, as f32; matrices as bf16."""
    if tensor.ndim == 1 or tensor.dtype == torch.float32:
        writer.add_tensor(name, tensor.float().contiguous().numpy())
        return
    assert tensor.dtype == torch.bfloat16, tensor.dtype
    raw = tensor.contiguous().view(torch.int16).numpy().view(np.uint8)
    writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
