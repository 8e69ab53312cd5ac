"""`paperlab serve-model` by OpenAI's own client: what it answers is what the engine itself says."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from serving import CHAT, LONG, language_model, served

from paperlab import engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def server(folder):
    with served(folder, "--context", str(LONG)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with server.client() as made:
        yield made


@pytest.fixture(scope="module")
def model(folder):
    return engine.load(folder, threads=1)


def ask(client, **options):
    return client.chat.completions.create(model="tiny", **{"messages": CHAT, "max_tokens": 40, **options})


def complete(client, prompt="the man in on", **options):
    return client.completions.create(model="tiny", prompt=prompt, **{"max_tokens": 40, **options})


def text_of(stream):
    """Text, reasons to finish, and usage of a stream of one choice."""
    written, why, usage = "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            written += (choice.delta.content or "") if hasattr(choice, "delta") else choice.text
            why += [choice.finish_reason] if choice.finish_reason else []
    return written, why, usage


def test_models_health_and_metrics(server, client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "paperlab"
    with pytest.raises(openai.NotFoundError, match="'tiny' does"):
        client.models.retrieve("other")
    status, _, body = server.raw("GET", "/health")
    assert (status, json.loads(body)) == (200, {"status": "ready"})
    before = server.metric("paperlab_tokens_total", kind="written")
    complete(client, max_tokens=7, extra_body={"ignore_eos": True})
    assert server.metric("paperlab_tokens_total", kind="written") == before + 7
    assert server.metric("paperlab_requests_total", endpoint="/v1/completions", code="200") >= 1
    assert server.metric("paperlab_step_seconds_count") >= 7


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"seed": 5}, {"seed": 6, "temperature": 1.5, "top_p": 0.7}], ids=str
)
def test_a_chat_is_what_the_engine_says(client, model, how):
    extra = {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1} if how.get("top_p") else {}
    wanted = "".join(model.generate(CHAT, max_tokens=40, **{"temperature": 1.0, **how, **extra}))
    whole = ask(client, **how, extra_body=extra)
    assert whole.choices[0].message.content == wanted
    options = {"stream": True, "stream_options": {"include_usage": True}}
    written, why, usage = text_of(ask(client, **how, extra_body=extra, **options))
    assert written == wanted
    assert why == [whole.choices[0].finish_reason]
    assert usage.completion_tokens == whole.usage.completion_tokens
    ids = model.ids(CHAT)
    assert usage.prompt_tokens == whole.usage.prompt_tokens == len(ids)
    assert usage.prompt_tokens_details.cached_tokens == len(ids) - 1  # the text before it left them


def test_without_a_seed_texts_differ(client):
    texts = {ask(client).choices[0].message.content for _ in range(3)}
    assert len(texts) == 3


def test_usage_and_reasons_to_finish(client, model):
    out = complete(client, temperature=0, max_tokens=9, extra_body={"ignore_eos": True})
    assert (out.usage.completion_tokens, out.choices[0].finish_reason) == (9, "length")
    ends = [
        seed
        for seed in range(40)
        if len(list(model.generate_ids("the", max_tokens=300, temperature=1, seed=seed))) < 300
    ]
    out = complete(client, "the", seed=ends[0], max_tokens=300)
    drawn = len(list(model.generate_ids("the", max_tokens=300, temperature=1, seed=ends[0])))
    assert (out.usage.completion_tokens, out.choices[0].finish_reason) == (drawn + 1, "stop")  # the end is drawn, too
    assert complete(client).usage.completion_tokens <= 40
    assert (
        client.completions.create(
            model="tiny", prompt="a", seed=1, extra_body={"ignore_eos": True}
        ).usage.completion_tokens
        == 16
    )


def test_a_stop_text_ends_it_wherever_tokens_part_and_never_shows(client, model):
    whole = "".join(model.generate("on the", max_tokens=300, temperature=1, seed=3))
    clean = [i for i in range(5, len(whole) - 4) if "\ufffd" not in whole[i : i + 3]][:40:5]
    assert len(clean) > 3
    for at in clean:
        stop = whole[at : at + 3]
        wanted = whole[: whole.index(stop)]
        options = {"seed": 3, "max_tokens": 300, "stop": ["never there", stop], "logprobs": 0}
        out = complete(client, "on the", **options).choices[0]
        assert (out.text, out.finish_reason) == (wanted, "stop")
        assert all(offset < max(1, len(wanted)) for offset in out.logprobs.text_offset)
        pieces = [c.choices[0].text for c in complete(client, "on the", **options, stream=True) if c.choices]
        assert "".join(pieces) == wanted
    assert complete(client, "on the", seed=3, max_tokens=300, stop="never there").choices[0].text == whole


def test_logprobs_are_the_engines_scores(client, model):
    out = ask(client, seed=2, logprobs=True, top_logprobs=3).choices[0]
    entries = out.logprobs.content
    written = b"".join(bytes(one.bytes) for one in entries)
    assert written.decode(errors="replace") == out.message.content
    ids = model.ids(CHAT)
    drawn = list(model.generate_ids(CHAT, max_tokens=40, temperature=1, seed=2))
    scores = model.score([*ids, *drawn])[len(ids) - 1 :]
    np.testing.assert_allclose([one.logprob for one in entries], scores, atol=1e-5)
    for one in entries:
        values = [other.logprob for other in one.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert values[0] >= one.logprob
    streamed = []
    for chunk in ask(client, seed=2, logprobs=True, stream=True):
        streamed += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert [one.logprob for one in streamed] == [one.logprob for one in entries]


def test_a_prompt_is_scored_by_echo(client, model):
    prompt = "the man and the other one in there " * 6
    out = complete(client, prompt, max_tokens=0, echo=True, logprobs=2).choices[0]
    assert (out.text, out.finish_reason) == (prompt, "length")
    ids = model.ids(prompt)
    assert out.logprobs.token_logprobs[0] is None
    np.testing.assert_allclose(out.logprobs.token_logprobs[1:], model.score(ids), atol=1e-5)
    assert [
        prompt[at : at + len(t)] for at, t in zip(out.logprobs.text_offset, out.logprobs.tokens, strict=True)
    ] == out.logprobs.tokens
    assert all(len(top) in (2, 3) for top in out.logprobs.top_logprobs[1:])
    both = complete(client, ids, max_tokens=3, echo=True, logprobs=0, temperature=0).choices[0]
    assert both.text.startswith(prompt)
    assert len(both.logprobs.tokens) == len(ids) + 3


def test_several_prompts_and_several_choices(client):
    one = [complete(client, prompt, seed=4).choices[0].text for prompt in ("the", "on a")]
    many = complete(client, ["the", "on a"], seed=4, n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert [many.choices[0].text, many.choices[2].text] == one
    assert len({choice.text for choice in many.choices}) == 4
    assert many.usage.prompt_tokens == 1 + 2
    streams = ["", "", ""]
    for chunk in ask(client, seed=8, n=3, stream=True):
        for choice in chunk.choices:
            streams[choice.index] += choice.delta.content or ""
    assert streams == [choice.message.content for choice in ask(client, seed=8, n=3).choices]


def test_a_conversation_goes_on_from_what_its_slot_holds(client, model):
    first = ask(client, messages=[{"role": "user", "content": "another one " * 20}], seed=1)
    written = first.choices[0].message.content
    talk = [{"role": "user", "content": "another one " * 20}, {"role": "assistant", "content": written}]
    talk.append({"role": "user", "content": "and then"})
    out = ask(client, messages=talk, seed=1, logprobs=True)
    assert out.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    fresh = engine.load(model.tokens.source, threads=1)
    drawn = list(fresh.generate_ids(talk, max_tokens=40, temperature=1, seed=1))
    assert out.choices[0].message.content == "".join(fresh.tokens.stream(drawn))
    ids = fresh.ids(talk)
    scores = fresh.score([*ids, *drawn])[len(ids) - 1 :]
    np.testing.assert_allclose([one.logprob for one in out.choices[0].logprobs.content], scores, atol=1e-5)


def test_eight_at_once_write_what_they_would_alone(server, client):
    wishes = [
        {
            "prompt": "the man in there and on " * (1 + i * i % 23),
            "seed": i,
            "temperature": 0.5 + i % 3,
            "max_tokens": 20 + 13 * (i % 7),
        }
        for i in range(24)
    ]
    for wish in wishes:
        wish["temperature"] = min(wish["temperature"], 2)
    alone = [complete(client, **wish, logprobs=1).choices[0] for wish in wishes]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda wish: complete(client, **wish, logprobs=1).choices[0], wishes))
    assert together == alone


def test_a_stream_is_whole_characters(client):
    chunks = [
        c.choices[0].text
        for c in complete(client, seed=11, max_tokens=400, stream=True, extra_body={"ignore_eos": True})
    ]
    whole = complete(client, seed=11, max_tokens=400, extra_body={"ignore_eos": True}).choices[0].text
    assert "".join(chunks) == whole
    assert "\ufffd" in whole  # the model's bytes are broken: each byte that fits nowhere is one sign, and no more
    written = complete(client, "Grüße, 世界 🙂", max_tokens=0, echo=True).choices[0].text
    assert written == "Grüße, 世界 🙂"


def test_the_howto_with_smollm2(capsys):
    from paperlab.assets.models import model_folder
    from paperlab.assets.packages import PackageError

    try:
        place, _ = model_folder("smollm2-135m")
    except PackageError as error:
        pytest.skip(str(error))
    page = (Path(__file__).parents[2] / "docs" / "howto" / "serve_a_model.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    body = re.search(r"-d '(.*?)'", page)[1]
    with served(place, "--bits", "8") as running:
        exec(program.replace("http://127.0.0.1:8080", running.url), {})
        assert "Rome" in capsys.readouterr().out
        status, _, answer = running.raw("POST", "/v1/completions", body.encode())
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] <= 20
