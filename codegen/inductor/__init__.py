"""The inductor target: the ops' references, compiled ahead of time by torch's AOTInductor."""
