"""The thread that writes many texts: faults of one, long prompts in a batch with others, and how a token is chosen."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from serving import language_model

from paperlab import engine
from paperlab.engine.detokenizer import Detokenizer
from paperlab.engine.native import EngineError, Sampling, call, pointer
from paperlab.engine.serve.batching import Batcher, Busy, Stopping
from paperlab.engine.serve.metrics import Metrics
from paperlab.engine.serve.texts import Text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("batching") / "tiny")


def test_one_texts_fault_is_not_the_others(folder):
    model = engine.load(folder, threads=1)
    run, done, texts_by_id = model.forward, threading.Semaphore(0), {}

    def forward(batch, **options):
        if any(list(tokens) == [5, 7, 9] for _, tokens in batch):
            raise EngineError("seven is broken")
        return run(batch, **options)

    def deliver(pieces):
        for text, piece in pieces:
            texts_by_id[text] = texts_by_id.get(text, "") + (piece.error or piece.text)
            text.read += 1
            if piece.finish or piece.error:
                done.release()

    def texts():
        prompts = ([1, 2, 3], [5, 7, 9], [2, 3])
        how = lambda i: Sampling(1, 6, 1, 0, 1, i)  # noqa: E731
        return [
            Text(i, list(ids), most=20, how=how(i), detokenizer=Detokenizer(model.tokens.token_bytes))
            for i, ids in enumerate(prompts)
        ]

    model.forward = forward
    batcher = Batcher(model, Metrics(), deliver, [model.session(64) for _ in range(4)], context=64, queue=2)
    first = texts()
    batcher.submit(first)
    for _ in first:
        assert done.acquire(timeout=60)
    assert texts_by_id[first[1]] == "seven is broken"
    assert batcher.thread.is_alive()
    model.forward = run
    alone = []
    for text in texts()[::2]:
        batcher.submit([text])
        assert done.acquire(timeout=60)
        alone.append(texts_by_id[text])
    assert [texts_by_id[first[0]], texts_by_id[first[2]]] == alone
    with pytest.raises(Busy):
        batcher.submit(texts() * 3)
    model.forward = forward = lambda *_, **__: 1 / 0
    batcher.submit(texts()[:1])
    assert done.acquire(timeout=60)
    assert "division by zero" in texts_by_id.popitem()[1]
    assert batcher.thread.is_alive()
    batcher._admit = forward  # what must not happen at all: texts fail, and nobody waits for ever
    batcher.submit(texts()[:1])
    assert done.acquire(timeout=60)
    assert texts_by_id.popitem()[1] == "the server is stopping"
    batcher.thread.join(60)
    assert not batcher.thread.is_alive()
    with pytest.raises(Stopping):
        batcher.submit(texts())


def test_long_prompts_are_read_in_pieces_beside_texts_that_are_written(folder):
    model = engine.load(folder, threads=1)
    run, runs, done, begun = model.forward, [], threading.Semaphore(0), threading.Event()

    def forward(batch, *, every=False):
        runs.append("scored" if every else [len(tokens) for _, tokens in batch])
        return run(batch, every=every)

    def deliver(pieces):
        for text, piece in pieces:
            assert piece.error is None
            text.read += 1
            begun.set()
            if piece.finish:
                done.release()

    def text(i, ids, most, **options):
        how = Sampling(1, 0, 1, 0, 1, i)
        return Text(i, ids, most=most, how=how, detokenizer=Detokenizer(model.tokens.token_bytes), **options)

    model.forward = forward
    batcher = Batcher(model, Metrics(), deliver, [model.session(4096) for _ in range(5)], context=4096, queue=5)
    batcher.submit([text(0, [1, 2, 3], 3000), text(1, [4, 5], 3000)])
    assert begun.wait(60)
    long = [7 + i % 40 for i in range(1500)]
    batcher.submit([text(2, long, 1)])
    batcher.submit([text(i, long[i:400], 1, logprobs=0, scores_prompt=True) for i in (3, 4)])
    for _ in range(5):
        assert done.acquire(timeout=60)
    batcher.stop(0)
    mixed = [run_ for run_ in runs if run_ != "scored" and max(run_) > 3]
    assert sum(max(run_) for run_ in mixed) >= len(long) - 3
    assert all(sorted(run_)[:-1] == [1, 1] for run_ in mixed)  # each run gives the others their next token
    assert len(mixed) > 15
    assert runs.count("scored") > 8
    assert all("scored" not in (a, b) or a != b for a, b in pairwise(runs))  # one at a time, and the others between


def test_the_likeliest_token_is_the_samplers_and_broken_logits_are_told(folder):
    model = engine.load(folder, threads=1)
    rows = np.random.default_rng(1).standard_normal((20, 300)).astype(np.float32)
    rows[3, [7, 9]] = rows[3].max() + 1
    rows[4, 5] = np.inf
    rows[5] = -np.inf
    for row in rows:
        made = Text(0, [1], most=9, how=Sampling(0, 0, 1, 0, 1, 0), detokenizer=Detokenizer(model.tokens.token_bytes))
        expected = call("sample", pointer(row.copy()), row.size, made.how, 0, None, 0)
        made.draw(row)
        assert made.ids[-1] == expected
    rows[6, 8] = np.nan
    with pytest.raises(EngineError, match="the logits are NaN"):
        made.draw(rows[6])
