"""Runs from the page: a queue in the store, one heavy run at a time, executed by processes that the worker starts."""
