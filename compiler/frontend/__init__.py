"""Model source to traced graph."""
