"""The Daily Papers site: a Django project over the store of papers.

store     tables, sources and how their papers are merged      search  ranking by words and meaning
pages     HTML pages and Atom feeds      api   the JSON API    runs    the queue of checks to run
people    accounts, votes, comments      digest  mail          commands  `paperlab up`, `fetch`, `search` ...
records   index of records and verdicts  start   settings and tables, ready to use

It imports core, the engine and what fetches packages; never torch.
"""
