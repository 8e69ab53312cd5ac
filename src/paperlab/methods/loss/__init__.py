"""Losses: what a network is trained to make small."""
