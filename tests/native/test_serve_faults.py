"""`paperlab serve-model` among clients that leave, do not read, send too much, and signals that come at any time."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import openai
import pytest
from local_server import free_port
from serving import LONG, WORDS, encoder, language_model, served
from typer.testing import CliRunner

from paperlab.cli import app

ENDLESS = {"max_tokens": LONG - 100, "ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("faults") / "tiny")


@pytest.fixture(scope="module")
def server(folder):
    patience = "guard.STALL_SECONDS = 3; guard.HEAD_SECONDS = 2; guard.BODY_SECONDS = 2"
    with served(folder, "--context", str(LONG), "--slots", "4", patch=patience) as running:
        yield running


def say(server, **options):
    with server.client() as client:
        return (
            client.completions.create(model="tiny", **{"prompt": "the man", "max_tokens": 20, "seed": 1, **options})
            .choices[0]
            .text
        )


def _all(opened):
    """What comes until an answer or its connection is over."""
    answer = b""
    with opened, suppress(ConnectionError):
        while part := opened.recv(1 << 16):
            answer += part
            if b"[DONE]" in answer:
                break
    return answer


def idle(server):
    return server.metric("paperlab_running") == 0 and server.metric("paperlab_queued") == 0


def test_clients_that_leave_free_their_slots(server):
    expected = say(server)
    for stream in (True, False):
        waiting = [server.open("/v1/completions", prompt="a", stream=stream, **ENDLESS) for _ in range(6)]
        server.until(lambda: server.metric("paperlab_running") == 4 and server.metric("paperlab_queued") == 2)
        for one in waiting:
            one.close()
        server.until(lambda: idle(server))
    assert server.metric("paperlab_tokens_total", kind="written") < 2 * LONG  # they were not written to their ends
    assert say(server) == expected


def test_a_client_of_openai_that_leaves_a_stream(server):
    with server.client() as client:
        stream = client.completions.create(model="tiny", prompt="a", stream=True, max_tokens=LONG - 100, seed=1)
        next(iter(stream))
        stream.close()
    server.until(lambda: idle(server))


def test_a_reader_who_does_not_read_holds_up_nobody_and_is_cut_off(server):
    opened = server.open("/v1/completions", prompt="a", stream=True, **ENDLESS)
    server.until(lambda: server.metric("paperlab_running") == 1)
    assert say(server, max_tokens=200) == say(server, max_tokens=200)
    server.until(lambda: idle(server))  # long before its text would have been whole
    assert b"[DONE]" not in _all(opened)


def test_readers_who_do_not_read_in_every_slot_are_cut_off_for_who_waits(server):
    stalled = [server.open("/v1/completions", prompt="a", stream=True, **ENDLESS) for _ in range(4)]
    server.until(lambda: server.metric("paperlab_running") == 4)
    assert say(server)  # waits until they have gone
    for one in stalled:
        one.close()
    server.until(lambda: idle(server))


def test_a_reader_who_is_slow_gets_everything(server):
    with server.open("/v1/completions", prompt="a", stream=True, max_tokens=3000, ignore_eos=True, seed=9) as opened:
        answer = b""
        while b"[DONE]" not in answer:
            time.sleep(0.05 if len(answer) < 100_000 else 0)
            piece = opened.recv(8192)
            assert piece, "the connection is over"
            answer += piece
    events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    expected = "".join(event["choices"][0]["text"] for event in events)
    assert expected == say(server, prompt="a", max_tokens=3000, seed=9, extra_body={"ignore_eos": True})


def test_bodies_that_are_too_long_or_do_not_come(server):
    status, _, body = server.raw("POST", "/v1/completions", b" " * (9 << 20))
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    for begin in (b"POST /v1/completions HTTP/1.1\r\nHost: loc", b""):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
            opened.sendall(begin)
            assert _all(opened) == b""  # cut off, header or not
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        opened.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b" 408 " in opened.recv(1000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
        opened.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
        assert b" 400 " in opened.recv(1000)
    assert server.raw("GET", "/health")[0] == 200


def test_nothing_grows_over_many_requests(server):
    def burst(count):
        with server.client() as client, ThreadPoolExecutor(8) as pool:
            ask = lambda i: client.completions.create(model="tiny", prompt=f"{i % 7} the", max_tokens=4)  # noqa: E731
            return list(pool.map(ask, range(count)))

    burst(100)
    server.until(lambda: idle(server))
    before = server.seen.memory_info().rss
    threads = server.seen.num_threads()
    burst(300)
    server.until(lambda: idle(server))
    assert server.seen.memory_info().rss < before + (4 << 20)
    assert server.seen.num_threads() <= threads
    server.until(lambda: len(server.seen.net_connections()) <= 3)  # the socket, and the one that asks


def test_a_key_is_asked_for(folder):
    with served(folder, "--name", "one", PAPERLAB_API_KEY="sésame") as server:
        assert server.raw("GET", "/health")[0] == 200
        for wrong in ({}, {"Authorization": "Bearer sesame"}, {"Authorization": "Basic sésame"}):
            assert server.raw("GET", "/v1/models", **wrong)[0] == 401
            assert server.raw("GET", "/metrics", **wrong)[0] == 401
            assert server.raw("POST", "/v1/completions", b"{}", **wrong)[0] == 401
        assert json.loads(server.raw("GET", "/v1/models", Authorization="Bearer sésame")[2])["data"][0]["id"] == "one"
    with served(folder, "--api-key", "plain") as server:
        with server.client("plain") as client:
            assert [one.id for one in client.models.list()] == ["tiny"]
        with server.client("other") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_full_queue_and_a_gentle_end(folder):
    with served(folder, "--context", str(LONG), "--slots", "1", "--queue", "1", patch="run.GRACE = 1.0") as server:
        running = server.open("/v1/completions", prompt="a", stream=True, **ENDLESS)
        server.until(lambda: server.metric("paperlab_running") == 1)
        waiting = server.open("/v1/completions", prompt="a", **ENDLESS)
        server.until(lambda: server.metric("paperlab_queued") == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            say(server)
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "queue_full"
        with pytest.raises(openai.BadRequestError, match="room for 2"):
            say(server, n=3)
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(_all, running)
            assert server.ends(signal.SIGTERM) == 0
        assert b"the server is stopping" in heard.result()  # an error in the midst of the stream
        assert heard.result().count(b'"text"') > 1
        assert b" 503 " in _all(waiting)


def test_a_running_text_comes_to_its_end_before_the_server_does(folder):
    with served(folder, "--context", "4000", patch="run.GRACE = 300") as server:
        running = server.open("/v1/completions", prompt="a", max_tokens=300, ignore_eos=True, seed=1)
        server.until(
            lambda: server.metric("paperlab_running") == 1 or server.metric("paperlab_tokens_total", kind="written")
        )
        assert server.ends(signal.SIGINT) == 0
        assert b'"finish_reason":"length"' in _all(running)


def test_an_encoder_ends_gently_too_and_forgets_who_left(tmp_path):
    slow = "import time; from paperlab.engine.encoder import Encoder as E; run.GRACE = 300; embed = E.embed_ids; "
    slow += "E.embed_ids = lambda *words: time.sleep(0.05) or embed(*words)"
    with served(encoder(tmp_path / "small"), "--queue", "2", patch=slow) as server:
        many = [" ".join(WORDS[:40])] * 800
        waiting = [server.open("/v1/embeddings", input=many) for _ in range(2)]
        server.until(lambda: server.metric("paperlab_queued") == 2)
        with server.client() as client, pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="small", input="w1")
        for one in waiting:
            one.close()
        server.until(lambda: idle(server))
        assert server.metric("paperlab_tokens_total", kind="embedded") < 2 * 800 * 42
        running = server.open("/v1/embeddings", input=many)
        server.until(lambda: server.metric("paperlab_queued") == 1)
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(_all, running)
            assert server.ends(signal.SIGTERM) == 0
        assert heard.result().count(b'"embedding":') == len(many)


@pytest.mark.kill
def test_kill_under_load_and_start_again(folder):
    port = free_port()
    with served(folder, "--context", str(LONG), "--slots", "2", port=port) as server:
        expected = say(server)
        asked = [server.open("/v1/completions", prompt="a", stream=i % 2 == 0, **ENDLESS) for i in range(6)]
        server.until(lambda: server.metric("paperlab_running") == 2 and server.metric("paperlab_queued") == 4)
        children = server.seen.children(recursive=True)
        server.ends(signal.SIGKILL)
        for one in asked:  # the connection is over, and nothing looks like a whole answer
            assert b"[DONE]" not in (heard := _all(one))
            assert b'"usage"' not in heard
        with pytest.raises(openai.APIConnectionError):
            say(server)
        assert not any(one.is_running() for one in children)
        with served(folder, port=port) as again:
            assert say(again) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve-model", "nowhere"], "nowhere"),
        (["serve-model", "PORT"], "is in use"),
        (["serve-model", "FOLDER", "--host", "no.such.host.invalid"], "--host"),
        (["serve-model", "FOLDER", "--port", "0", "--context", "1000000"], "this model takes 1 to"),
        (["serve-model", "FOLDER", "--port", "0", "--bits", "5"], "5 bits"),
        (["serve-model", "BARE", "--port", "0"], "tokenizer"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_a_server_that_cannot_start_says_why(folder, words, expected, tmp_path):
    if words[1] == "PORT":
        taken = socket.create_server(("127.0.0.1", 0))
        words = ["serve-model", str(folder), "--port", str(taken.getsockname()[1])]
    if words[1] == "BARE":
        encoder(tmp_path / "bare")
        (tmp_path / "bare" / "tokenizer.json").unlink()
        words = [words[0], str(tmp_path / "bare"), *words[2:]]
    done = CliRunner().invoke(app, [str(folder) if word == "FOLDER" else word for word in words])
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
