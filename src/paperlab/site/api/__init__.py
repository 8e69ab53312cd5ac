"""The read API: papers, search, daily lists, verdicts and records, for programs. Nobody needs a key."""
