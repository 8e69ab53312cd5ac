"""What the lab raises where something that was asked cannot be done."""


class RunError(ValueError):
    """What was asked cannot be run; the message says what would work."""
