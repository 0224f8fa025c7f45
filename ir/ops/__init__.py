"""The ops of the IR, grouped by what they compute."""
