"""Pages for people: a plain list of papers, and a page for each."""
