"""Small quantized checkpoints, packed as their methods document it, from tiny random models.

Every packer quantizes by rounding to the nearest and returns what the parts stand for in float64,
computed from the codes, never from llmc.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

LLAMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "head_dim": 16, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "max_position_embeddings": 128,
}  # fmt: skip
Packed = tuple[dict[str, torch.Tensor], np.ndarray]
"""Parts by the suffix of their names, and the weight [N, K] that they stand for."""
Packer = Callable[[np.ndarray], Packed]


def random_model(kind: str = "LlamaConfig", **fields: object) -> PreTrainedModel:
    """A model of config class `kind` in float32, the same one each time."""
    torch.manual_seed(11)
    config = getattr(transformers, kind)(**(LLAMA | fields))
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def is_linear(name: str) -> bool:
    """What quantizers quantize by default: all linear layers but the head."""
    return name.endswith("proj.weight")


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    pack: Packer | Callable[[str], Packer | None],
    settings: Mapping[str, Any] | None,
    *,
    separate: str | None = None,
) -> PreTrainedModel:
    """Write `model` with its linear layers packed, and set its weights to what is written.

    `pack` is for all of them, or gives the packer of a name. `settings` go into config.json, or
    into the file `separate`.
    """
    folder.mkdir(exist_ok=True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        packer = _packer(pack, name)
        if packer is None:
            tensors[name] = value.contiguous()
            continue
        parts, values = packer(value.double().numpy())
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        state[name] = torch.from_numpy(values).float()
    model.load_state_dict(state)
    config = model.config.to_dict()
    if separate is None and settings is not None:
        config["quantization_config"] = dict(settings)
    if separate is not None:
        (folder / separate).write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def write_experts(
    folder: Path, model: PreTrainedModel, pack: Packer, settings: Mapping[str, Any]
) -> PreTrainedModel:
    """Write a model with experts as their checkpoints are: a module an expert, all packed."""
    write_checkpoint(folder, model, lambda name: None, settings)
    state, tensors = dict(model.state_dict()), {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".")
        if not stem.endswith(".experts"):
            tensors[name] = value.clone()
            continue
        done = []
        for i, matrix in enumerate(value):
            halves = matrix.chunk(2) if last == "gate_up_proj" else [matrix]
            names = ["gate_proj", "up_proj"] if last == "gate_up_proj" else [last]
            for part, own in zip(halves, names, strict=True):
                parts, exact = pack(part.double().numpy())
                tensors |= {f"{stem}.{i}.{own}.{p}": t.contiguous() for p, t in parts.items()}
                done.append(torch.from_numpy(exact).float())
        state[name] = torch.cat(done).reshape(value.shape)
    model.load_state_dict(state)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def _packer(pack: Any, name: str) -> Packer | None:
    if not is_linear(name):
        return None
    try:
        found = pack(name)
    except (AttributeError, TypeError, IndexError):  # it takes weights
        return pack
    return found


def integers(
    w: np.ndarray, bits: int, group: int, symmetric: bool, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes [N, K], scales f16 [N, G], zero points [N, G] and the values of `w`."""
    n, k = w.shape
    group = k if group < 0 else group
    count, top = -(-k // group), (1 << bits) - 1
    group_of = np.arange(k) // group if groups is None else groups
    scales, zeros = np.zeros((n, count), np.float16), np.zeros((n, count), np.int64)
    for g in range(count):
        part = w[:, group_of == g]
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        if symmetric:
            scales[:, g] = np.maximum(high, -low) * 2 / top
            zeros[:, g] = (top + 1) // 2
        else:
            scales[:, g] = (high - low) / top
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g].astype(float)), 0, top)
    s, z = scales.astype(np.float64)[:, group_of], zeros[:, group_of]
    codes = np.clip(np.rint(w / s) + z, 0, top).astype(np.int64)
    return codes, scales, zeros, (codes - z) * s


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [R, C] as words i32 [R, C * bits / 32], one bit after another, lowest first."""
    one_by_one = codes[..., None] >> np.arange(bits) & 1
    stream = one_by_one.reshape(len(codes), -1).astype(np.uint8)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return np.packbits(stream, axis=1, bitorder="little").view("<i4")


def gptq(
    bits: int = 4, group: int = 32, symmetric: bool = True, version: int = 1,
    act_order: bool = False, seed: int = 0,
) -> Packer:  # fmt: skip
    """`QuantLinear.pack` of AutoGPTQ (version 1) and of GPTQModel (version 2)."""

    def pack(w: np.ndarray) -> Packed:
        size = w.shape[1] if group < 0 else group
        groups = np.arange(w.shape[1]) // size
        if act_order:
            groups = np.random.default_rng(seed).permutation(groups)
        codes, scales, zeros, values = integers(w, bits, group, symmetric, groups)
        stored = zeros - 1 & (1 << bits) - 1 if version == 1 else zeros
        parts = {
            "qweight": torch.from_numpy(bit_stream(codes, bits).T.copy()),
            "qzeros": torch.from_numpy(bit_stream(stored.T, bits)),
            "scales": torch.from_numpy(scales.T.copy()),
            "g_idx": torch.from_numpy(groups.astype(np.int32)),
        }
        return parts, values

    return pack


def awq(group: int = 32, symmetric: bool = False) -> Packer:
    """`WQLinear_GEMM.from_linear` of AutoAWQ, nibble by nibble."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def words(codes: np.ndarray) -> torch.Tensor:
        out = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
        for column in range(out.shape[1]):
            for i in range(8):
                out[:, column] |= codes[:, column * 8 + order[i]].astype(np.uint32) << (i * 4)
        return torch.from_numpy(out.view(np.int32))

    def pack(w: np.ndarray) -> Packed:
        codes, scales, zeros, values = integers(w, 4, group, symmetric)
        parts = {
            "qweight": words(codes.T), "qzeros": words(zeros.T),
            "scales": torch.from_numpy(scales.T.copy()),
        }  # fmt: skip
        return parts, values

    return pack


def mlx(bits: int = 4, group: int = 32, dtype: torch.dtype = torch.float16) -> Packer:
    """`mx.quantize` in its affine mode: scale and bias span a group's values."""

    def pack(w: np.ndarray) -> Packed:
        parts = w.reshape(len(w), -1, group)
        low, high, top = parts.min(axis=2), parts.max(axis=2), (1 << bits) - 1
        scales, biases = (torch.from_numpy(x).to(dtype) for x in ((high - low) / top, low))
        s, b = scales.double().numpy()[..., None], biases.double().numpy()[..., None]
        codes = np.clip(np.rint((parts - b) / s), 0, top).astype(np.int64)
        words = bit_stream(codes.reshape(w.shape), bits).view(np.uint32)
        found = {"weight": torch.from_numpy(words), "scales": scales, "biases": biases}
        return found, (codes * s + b).reshape(w.shape)

    return pack


def bitsandbytes_rows(w: np.ndarray) -> Packed:
    """`Linear8bitLt`: codes i8 with the largest of each row."""
    largest = np.abs(w).max(axis=1).astype(np.float32)
    codes = np.rint(w * 127 / largest[:, None]).astype(np.int8)
    parts = {
        "weight": torch.from_numpy(codes), "SCB": torch.from_numpy(largest),
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }  # fmt: skip
    return parts, codes * largest[:, None].astype(np.float64) / 127


NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
], np.float32)  # fmt: skip
"""The codebook of the QLoRA paper, as bitsandbytes stores it."""


def bitsandbytes_nf4(nested: bool, block: int = 64) -> Packer:
    """`Linear4bit` with its `QuantState`, with or without double quantization."""

    def pack(w: np.ndarray) -> Packed:
        blocks = w.reshape(-1, block)
        absmax = np.abs(blocks).max(axis=1).astype(np.float32)
        state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16",
                 "shape": list(w.shape)}  # fmt: skip
        parts = {"weight.quant_map": torch.from_numpy(NF4.copy())}
        if nested:
            offset, book = float(absmax.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
            rest = np.pad(absmax - np.float32(offset), (0, -len(absmax) % 256)).reshape(-1, 256)
            outer = np.abs(rest).max(axis=1)
            codes = np.abs((rest / outer[:, None])[..., None] - book).argmin(axis=2)
            found = book[codes] * outer[:, None] + np.float32(offset)
            parts |= {
                "weight.absmax": torch.from_numpy(
                    codes.astype(np.uint8).reshape(-1)[: len(absmax)]
                ),
                "weight.nested_absmax": torch.from_numpy(outer),
                "weight.nested_quant_map": torch.from_numpy(book.copy()),
            }
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            absmax = found.reshape(-1)[: len(absmax)]
        else:
            parts["weight.absmax"] = torch.from_numpy(absmax)
        codes = np.abs((blocks / absmax[:, None])[..., None] - NF4).argmin(axis=2)
        pairs = codes.reshape(-1, 2).astype(np.uint8)
        parts["weight"] = torch.from_numpy(pairs[:, :1] << 4 | pairs[:, 1:])
        text = json.dumps(state).encode()
        name = "weight.quant_state.bitsandbytes__nf4"
        parts[name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return parts, (NF4[codes] * absmax[:, None]).astype(np.float64).reshape(w.shape)

    return pack


def float8(
    block: tuple[int, int] | None = (128, 128), scale: str = "weight_scale_inv",
    dtype: torch.dtype = torch.float32,
) -> Packer:  # fmt: skip
    """E4M3 with a scale a block of rows and columns (DeepSeek's), or one for all."""

    def pack(w: np.ndarray) -> Packed:
        height, width = block or w.shape
        rows, columns = -(-w.shape[0] // height), -(-w.shape[1] // width)
        scales = torch.zeros(rows, columns)
        row, column = np.arange(w.shape[0]) // height, np.arange(w.shape[1]) // width
        for r in range(rows):
            for c in range(columns):
                scales[r, c] = np.abs(w[row == r][:, column == c]).max() / 448
        scales = scales.to(dtype)
        spread = scales.double()[row][:, column]
        codes = (torch.from_numpy(w) / spread).to(torch.float8_e4m3fn)
        stored = scales if block else scales.reshape(())
        return {"weight": codes, scale: stored}, (codes.double() * spread).numpy()

    return pack


def compressed(format: str, **weights: Any) -> Packer:
    """What the compressed-tensors package itself makes of a weight, and reads back from it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor: Any = BaseCompressor.get_value_from_registry(format)

    def pack(w: np.ndarray) -> Packed:
        tensor = torch.from_numpy(w).float()
        low, high = _ranges(tensor, args)
        scale, zero = calculate_qparams(low, high, args)
        state = {"weight": tensor, "weight_scale": scale.float(), "weight_zero_point": zero}
        parts = compressor.compress(state, scheme)
        values = compressor.decompress(dict(parts), scheme)["weight"]
        return parts, values.double().numpy()

    return pack


def _ranges(w: torch.Tensor, args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest value of what shares a scale, as its strategy shapes them."""
    if args.strategy == "tensor":
        return w.min().reshape(1), w.max().reshape(1)
    if args.strategy == "block":
        height, width = args.block_structure
        parts = w.reshape(w.shape[0] // height, height, w.shape[1] // width, width)
        return parts.amin(dim=(1, 3)), parts.amax(dim=(1, 3))
    size = args.group_size if args.strategy == "group" else w.shape[1]
    parts = w.reshape(w.shape[0], -1, size)
    return parts.amin(dim=2), parts.amax(dim=2)


def compressed_config(format: str, ignore: list[str] | None = None, **weights: Any) -> dict:
    """The settings of one config group for all linear layers."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
        "ignore": ignore or ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip


def write_mxfp4(folder: Path) -> PreTrainedModel:
    """A tiny GPT-OSS whose experts are in MXFP4; its weights are what transformers reads there."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    fields = {"hidden_size": 64, "intermediate_size": 96, "num_local_experts": 4,
              "num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"],
              "sliding_window": 8}  # fmt: skip
    model = random_model("GptOssConfig", **fields)
    state, tensors = model.state_dict(), {}
    random = np.random.default_rng(3)
    for name, value in state.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = value.clone()
            continue
        experts, k, n = value.shape
        blocks = torch.from_numpy(random.integers(0, 256, (experts, n, k // 32, 16), np.uint8))
        scales = torch.from_numpy(random.integers(122, 126, (experts, n, k // 32), np.uint8))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        state[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    model.load_state_dict(state)
    folder.mkdir()
    config = model.config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model
