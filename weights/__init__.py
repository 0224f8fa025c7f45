"""Weights before they are bytes: recipes, number formats, layouts, and how they are written."""
