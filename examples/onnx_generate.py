"""Generate text from a folder that `llmc compile MODEL --target onnx --emit onnx -o DIR` wrote.

    python examples/onnx_generate.py DIR "Why is the sky blue?" [--max-tokens 64] [--cuda]

Needs onnxruntime, numpy and tokenizers; llmc is not imported. The cache is allocated once and bound
as input and as output of every call, so each step writes its tokens where they stay.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

CHUNK = 512
"""Tokens of the prompt that one call takes."""
ELEMENT = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder:
    """One sequence: its cache on the device, and how many tokens are in it."""

    def __init__(self, folder: Path, length: int, device: str) -> None:
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=[provider])
        known = self.session.get_modelmeta().custom_metadata_map
        self.max_context = int(known["max_context"])
        self.start = 0
        self.device = device
        self.caches = {}
        for given in self.session.get_inputs():
            if given.name.startswith(("key_cache.", "value_cache.")):
                _, heads, _, width = given.shape  # [sequences, heads, cache length, head size]
                zeros = np.zeros((1, heads, length, width), ELEMENT[given.type])
                self.caches[given.name] = onnxruntime.OrtValue.ortvalue_from_numpy(zeros, device)

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """Put tokens behind those in the cache; what the model says after the last of them."""
        found = np.empty(0)
        for begin in range(0, len(token_ids), CHUNK):
            found = self._call(token_ids[begin : begin + CHUNK])
        return found

    def _call(self, token_ids: list[int]) -> np.ndarray:
        binding = self.session.io_binding()
        binding.bind_cpu_input("token_ids", np.array([token_ids], np.int64))
        binding.bind_cpu_input("start", np.array([self.start], np.int64))
        binding.bind_cpu_input("logits_rows", np.array([len(token_ids) - 1], np.int64))
        for name, cache in self.caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(f"{name}.out", cache)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        self.start += len(token_ids)
        return binding.get_outputs()[-1].numpy()[0]  # the one bound last; caches stay


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate text with onnxruntime alone.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompt", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--cuda", action="store_true")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    ends = json.loads((options.folder / "generation.json").read_text()).get("eos_token_ids", [])
    prompt = tokenizer.encode(options.prompt).ids
    length = len(prompt) + options.max_tokens
    decoder = Decoder(options.folder, length, "cuda" if options.cuda else "cpu")
    if length > decoder.max_context:
        print(f"the model was compiled for {decoder.max_context} tokens", file=sys.stderr)
        return 2
    written: list[int] = []
    token = int(decoder.logits(prompt).argmax())
    while token not in ends:
        before = tokenizer.decode(written)
        written.append(token)
        print(tokenizer.decode(written).removeprefix(before), end="", flush=True)
        if len(written) == options.max_tokens:
            break
        token = int(decoder.logits([token]).argmax())
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
