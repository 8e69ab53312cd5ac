"""Pruning: fewer weights, with what is left as it was or refitted."""
