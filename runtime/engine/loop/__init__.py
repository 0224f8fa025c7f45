"""The thread that steps an engine, and what it exchanges with others."""
