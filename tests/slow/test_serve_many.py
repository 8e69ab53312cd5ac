"""10,000 requests of every kind: the server's memory, threads, sockets and slots stay what they were."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("paperlab_engine")

from serving import LONG, language_model, served  # noqa: E402


def test_nothing_grows_over_10_000_requests(tmp_path):
    with served(language_model(tmp_path / "tiny"), "--context", str(LONG)) as server, server.client() as client:

        def ask(i):
            if i % 10 == 0:  # leaves before its answer
                with server.open("/v1/completions", prompt="a", stream=True, max_tokens=9000, ignore_eos=True) as one:
                    one.recv(100)
            elif i % 10 == 1:
                with pytest.raises(openai.BadRequestError):
                    client.completions.create(model="tiny", prompt="a", best_of=5)
            elif i % 10 == 2:
                server.raw("POST", "/v1/completions", json.dumps({"model": "tiny", "prompt": "b" * 5000}).encode())
            else:
                prompt = "the man in " * (1 + i % 40)
                out = client.completions.create(
                    model="tiny",
                    prompt=prompt,
                    max_tokens=1 + i % 9,
                    stream=i % 10 > 6,
                    logprobs=i % 3 or None,
                    n=1 + i % 2,
                )
                if i % 10 > 6:
                    assert list(out)

        def state():
            server.until(lambda: server.metric("paperlab_running") == server.metric("paperlab_queued") == 0)
            server.until(lambda: len(server.seen.net_connections()) <= 10)
            return server.seen.memory_info().rss / 2**20, server.seen.num_threads(), server.seen.num_fds()

        seen = []
        with ThreadPoolExecutor(8) as pool:
            for _ in range(10):
                list(pool.map(ask, range(1000)))
                seen.append(state())
        print(seen)
        assert seen[-1][0] < seen[1][0] + 8  # MiB
        assert seen[-1][1] <= seen[1][1]
        assert seen[-1][2] <= seen[1][2] + 8  # the client's own connections stay open
        assert server.metric("paperlab_requests_total") >= 10_000
