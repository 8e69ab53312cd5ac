"""Tags of the runs' templates."""
