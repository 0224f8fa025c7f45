"""Model source to artifact."""
