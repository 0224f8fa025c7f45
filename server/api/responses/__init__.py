"""The Responses interface."""
