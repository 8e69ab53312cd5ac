"""A Model Context Protocol server over the site's store: search, papers, verdicts, records and methods, only read."""
