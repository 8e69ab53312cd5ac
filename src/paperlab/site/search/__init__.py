"""Finding papers: one ranking for the command line, the API, pages and mail. Words and meaning, fused, with filters."""
