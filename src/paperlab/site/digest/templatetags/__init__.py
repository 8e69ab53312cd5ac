"""Template tags of the digest."""
