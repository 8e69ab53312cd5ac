"""Drivers: one module per act, applying a method's functions and saying in literals which of them it knows.

A driver has the table that `paperlab.core.acts` reads, and two functions:

    build(functions, params, *, setting, seed, start, progress)   an arm of a check, on a task's setting
    use(method, functions, params)                                what `paperlab.load` gives, for one's own code

functions: the method's verbs by name. start: the result of the arm that this one comes after, or None.
"""
