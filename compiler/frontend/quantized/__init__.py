"""Quantized checkpoints: one file a method, and what they share."""
