"""The paged cache: what sequences hold, which blocks are free, which prefixes are known."""
