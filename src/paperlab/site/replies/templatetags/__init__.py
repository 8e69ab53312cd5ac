"""Template tags of replies."""
