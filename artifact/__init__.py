"""What an artifact is: manifest, program contract, reader, writer. Imports `base/` only."""
