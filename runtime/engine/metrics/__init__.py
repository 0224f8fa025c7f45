"""What an engine counts, and requests as spans."""
