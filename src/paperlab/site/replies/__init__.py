"""An author's reply beside a verdict: proved by a line in the paper's repository or by ORCID, shown once approved."""
