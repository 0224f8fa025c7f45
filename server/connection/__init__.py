"""Between socket and endpoint: listening, limits, keys, bodies, and how answers are sent."""
