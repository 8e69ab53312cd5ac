"""Elastic models: one set of weights that serves at many sizes."""
