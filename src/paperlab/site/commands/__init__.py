"""What the command line's `up`, `fetch`, `import`, `search`, `index` and `digest` do, and the processes of a site."""
