"""What everything stands on: errors, progress, debug, the machine. Imports no other room."""
