"""Backends: planned graph to native program."""
