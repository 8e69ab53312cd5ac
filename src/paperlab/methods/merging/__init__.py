"""Merging: one model made of several that began as one."""
