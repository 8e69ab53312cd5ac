"""Personal tokens: programs that act for somebody, within the scopes that they were given. Reading needs none."""
