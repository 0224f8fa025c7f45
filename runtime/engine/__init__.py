"""Requests in, tokens out: scheduling, the paged cache and its prefixes, sampling."""
