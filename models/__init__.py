"""Catalog of named models and the zoo of tiny random ones."""
