"""The runtime: loads an artifact and turns prompts into tokens. Imports no other room."""
