"""An OpenAI-compatible server over the CPU engine: `paperlab serve-model`.

    requests   what a body may ask for; everything else is refused by name
    batching   the thread that owns a language model and writes many texts at once
    embedding  the thread that owns an encoder
    replies    texts as OpenAI's JSON and as server-sent events
    app        the addresses
    guard      what stands before them: hosts, keys, sizes, slow and silent connections
    metrics    counters for Prometheus
    run        the process: socket, signals, loading

Needs the extra `serve`.
"""
