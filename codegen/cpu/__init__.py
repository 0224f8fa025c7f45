"""The CPU backend: C++ through the zig toolchain."""
