"""Runs of checks: a queue in the store, one run at a time, executed by processes that the worker starts."""
