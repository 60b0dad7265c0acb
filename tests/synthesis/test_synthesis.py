"""The loop against real servers of both protocols: what is written is kept, counted, rated, never asked for twice."""

import asyncio
import io
import json

import numpy as np
import pytest
from conftest import ARCH
from PIL import Image as Pillow

from configs import cpu
from embed import toy_corpora
from embed.data.modalities import Image, Text
from embed.data.sources import open_split, read_records
from embed.model.presets import PRESETS
from embed.synthesis import ask, grammar, offline, seeds
from embed.synthesis.kinds import TASKS, Seed, parse, prompt, rating_prompt
from embed.synthesis.loop import Plan, write
from embed.toy_corpora import synthetic
from experiments import synthesize

FUNCTION = """def read_lines(path, limit):
    for line in open(path):
        if limit < 0:
            break
        yield line"""
CODE = [Seed(f"f{i}", (Text(FUNCTION.replace("lines", f"thing{i}")),), f"module{i % 3}") for i in range(12)]


def picture() -> bytes:
    pixels = np.full((32, 32, 3), 128, np.uint8)
    pixels[2:9, 22:30] = (220, 20, 20)
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(params=["openai", "google"])
def endpoint(request):
    """A way to ask a server that speaks a protocol, whose answers `handler` gives."""

    def openai(url: str, retries: int = 3) -> ask.Ask:
        return ask.ask_openai(f"{url}/v1", "m", retries=retries)

    def google(url: str, retries: int = 3) -> ask.Ask:
        return ask.ask_google("m", url, retries=retries)

    return openai if request.param == "openai" else google


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_is_asked_and_answered_by_either_protocol(endpoint, kind):
    seed = {
        "sql": next(seeds.tables("train")),
        "caption": Seed("p", (Image(picture()),), ""),
        "retrieval": Seed("t", (Text("A socket is an endpoint of a connection. It has an address."),), "en"),
        "classification": Seed("l", (Text("refund request"),), "refund"),
    }.get(kind, CODE[0])
    with offline.serve() as url:
        reply = asyncio.run(endpoint(url)(prompt(TASKS[kind], seed), 3))
        query, positive, label = TASKS[kind].pair(seed, parse(reply.text, TASKS[kind].fields))
        rated = asyncio.run(endpoint(url)(rating_prompt(TASKS[kind], query, positive), 0))
    assert reply.tokens_in > 10 and reply.tokens_out > 3 and 1 <= int(json.loads(rated.text)["rating"]) <= 5
    assert query[0].text and (label == "refund") == (kind == "classification")
    if kind == "caption":
        assert "red" in query[0].text and "top right" in query[0].text
    if kind == "sql":
        assert positive[0].text.startswith("SELECT") and query[0].text.startswith("CREATE TABLE")
    if kind in ("contest", "feedback"):
        assert positive == seed.content and "thing0" in query[0].text.replace(" ", "")


class Unsteady(offline.Handler):
    """Fails at first; refuses one function, babbles about another, rates a third low."""

    calls = 0

    def do_POST(self):
        type(self).calls += 1
        if type(self).calls in (1, 4, 5):
            self.rfile.read(int(self.headers["Content-Length"]))
            return self.reply(503, {"error": {"message": "later", "code": 503, "status": "UNAVAILABLE"}})
        return super().do_POST()


def unsteady(text: str, images: list[bytes], number: int) -> str:
    if "thing3" in text:
        raise ValueError("I cannot talk about that")
    if "thing5" in text:
        return "Here you are: no JSON."
    if "thing7" in text and "QUERY" in text:
        return '```json\n{"rating": 2}\n```'
    return "Sure! " + grammar.answer(text, images, number)


def test_what_fails_is_tried_again_and_what_is_left_out_is_counted(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "answer", unsteady)
    monkeypatch.setattr(Unsteady, "calls", 0)
    plan = Plan(TASKS["contest"], [*CODE, CODE[0]], keep=5, alike=0.99)
    with offline.serve(Unsteady) as url:
        replies = ask.Replies(tmp_path / "replies.jsonl", endpoint(url), "m")
        records, counts = asyncio.run(write(plan, replies, parallel=1))
    assert counts == {
        "answers": 13, "refused": 1, "without the form asked for": 1, "rated low": 1, "alike": 1, "over the number": 4,
        "kept": 5,
    }  # fmt: skip
    assert replies.asked == 12 + 10  # the same function twice is one question
    groups = [record.provenance["seed"] for record in records]
    assert {int(name[1:]) % 3 for name in groups} == {0, 1, 2}  # in turn
    told = records[0].provenance
    assert told["prompt"] == TASKS["contest"].ask and told["model"] == "m" and int(told["rating"]) >= 4


def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(tmp_path):
    class Lost(Exception):
        pass

    asked = []

    async def model(prompt, number):
        if len(asked) == 9:
            raise Lost
        asked.append(prompt)
        return await synthetic.ask(prompt, number)

    plan = Plan(TASKS["feedback"], CODE, keep=100, least=1)
    with pytest.raises(Lost):
        asyncio.run(write(plan, ask.Replies(tmp_path / "replies.jsonl", model, "m"), parallel=1))
    with (tmp_path / "replies.jsonl").open("a") as file:
        file.write('{"key": "torn')
    asked.append(None)  # past the nine
    replies = ask.Replies(tmp_path / "replies.jsonl", model, "m")
    records, _ = asyncio.run(write(plan, replies, parallel=4))
    assert replies.asked == 24 - 9 and len(asked) == 25
    alone, _ = asyncio.run(write(plan, ask.Replies(tmp_path / "other.jsonl", synthetic.ask, "m"), parallel=1))
    assert {r.id: r for r in records} == {r.id: r for r in alone}
    again = ask.Replies(tmp_path / "replies.jsonl", model, "m")
    asyncio.run(write(plan, again, parallel=1))
    assert again.asked == 0


def test_an_endpoint_that_is_not_there_is_named(endpoint, tmp_path):
    with pytest.raises(ask.AskError, match=r"127\.0\.0\.1:9.*does not answer for model m"):
        asyncio.run(endpoint("http://127.0.0.1:9", retries=0)((Text("x"),), 0))


@pytest.mark.parametrize("reply", ["", "{}", '{"query": ""}', "{broken", '["query"]', '{"question": "x"}'])
def test_a_reply_without_the_fields_is_refused(reply):
    with pytest.raises(ValueError, match=r"\w"):
        parse(reply, ("query",))
    assert parse('so: {"query": "x\\n{y}"} .', ("query",)) == {"query": "x\n{y}"}


def test_a_mistake_is_put_into_a_function():
    for number in range(20):
        asked = "".join(part.text for part in prompt(TASKS["feedback"], CODE[0]))
        question = json.loads(grammar.answer(asked, [], number))["question"]
        assert CODE[0].content[0].text not in question and "def read_thing0" in question


def test_the_corpus_is_code_of_its_split_alone(monkeypatch):
    monkeypatch.setattr(synthetic, "SEEDS", 40)
    monkeypatch.setattr(synthetic, "TABLES", 20)
    found = {split: list(synthetic.code(split)) for split in ("train", "dev", "test")}
    assert all(len(records) > 20 for records in found.values())
    seen = {split: {record.positive for record in records} for split, records in found.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["dev"]
    assert {record.id.split("/")[1] for record in found["train"]} == {"contest", "feedback", "sql"}


def test_the_experiment_writes_its_datasets_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    monkeypatch.setattr(synthesize, "SEEDS", 12)
    for name in set(toy_corpora.CORPORA) - {"scenes_labels", "scenes_image", "stdlib_text"}:
        monkeypatch.delitem(toy_corpora.CORPORA, name)
    toy_corpora.build(tmp_path / "data", most=16)
    config = cpu.get_config()
    config.update({"workdir": str(tmp_path / "runs"), "data": str(tmp_path / "data")})
    synthesize.main(config)
    first = capsys.readouterr().out
    assert "0.00 dollars in all" in first and "code: contest: 12 answers" in first
    found = {
        name: list(read_records(open_split(tmp_path / "runs" / "synthetic" / name, "train")))
        for name in synthesize.DATASETS
    }
    assert all(found.values()) and isinstance(found["image"][0].positive[0], Image)
    assert {record.label for record in found["text"]} > {""}
    synthesize.main(config)
    assert "0 questions asked now" in capsys.readouterr().out
