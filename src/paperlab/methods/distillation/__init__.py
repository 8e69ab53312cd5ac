"""Distillation: a small network learns from what a larger one says."""
