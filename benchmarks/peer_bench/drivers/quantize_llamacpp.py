"""Quantizes a GGUF file with llama.cpp: `quantize_llamacpp.py SOURCE TARGET FILE_TYPE`."""

import os
import sys

import llama_cpp  # pyright: ignore[reportMissingImports]


def main(source: str, target: str, file_type: str) -> None:
    """`file_type` is a name of llama.cpp's, such as Q4_0 or Q4_K_M."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.allow_requantize = True
    params.nthread = os.cpu_count() or 1
    failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), params)
    if failed:
        raise SystemExit(f"llama_model_quantize returned {failed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
