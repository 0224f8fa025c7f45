"""What requests may say, as schemas: one file an endpoint, shared fields in `common.py`."""
