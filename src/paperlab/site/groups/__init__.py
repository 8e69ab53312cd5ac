"""Groups: what a lab reads together, as collections that its members share, and a journal club."""
