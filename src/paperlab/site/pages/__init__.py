"""HTML pages, Atom feeds and static files."""
