"""People: who reads, and what they do: vote, comment, collect, follow, submit. On one's own machine nobody signs in."""
