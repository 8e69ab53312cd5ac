"""The digest: what is new for one's interests, by mail; and the other letters that the site writes."""
