"""The runtime's public face: load an artifact, generate, score, replay and measure."""
