"""Serve a model to OpenAI's clients with the CPU engine: `paperlab serve-model`.

    requests   what a body may ask for; everything else is refused by name
    texts      one text that is being generated, and its pieces
    batching   the thread that owns a language model and writes many texts at once
    embedding  the thread that owns an encoder
    service    the model between the event loop and its thread
    replies    texts as OpenAI's JSON and as server-sent events
    app        the routes
    guard      middleware: hosts, keys, sizes, slow and silent connections
    metrics    counters for Prometheus
    run        the process: socket, signals, loading

Needs the extra `serve`.
"""
