"""Code behind the command line's `up`, `fetch`, `import`, `search`, `index` and `digest`, and the site's processes."""
