"""Program executors, one per backend."""
