"""Graph-to-graph passes and their order."""
