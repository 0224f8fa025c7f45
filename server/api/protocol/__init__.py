"""What requests may say, as schemas: one file an endpoint, and what several have in common."""
