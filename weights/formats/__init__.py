"""Number formats of weights: one file each, `weights/formats/registry.py` lists them."""
