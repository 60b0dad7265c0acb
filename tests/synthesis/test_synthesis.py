"""The loop against real servers of both protocols: what is written is kept, counted, rated, never asked for twice."""

import asyncio
import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from embed import __main__ as command
from embed import toy_corpora
from embed.data.modalities import Image, Text
from embed.data.sources import open_split, read_records
from embed.synthesis import datasets, grammar, llm, offline
from embed.synthesis.generate import GenerationPlan, generate_records
from embed.synthesis.tasks import TASKS, Seed, make_prompt, make_rating_prompt, parse_reply
from embed.toy_corpora import synthetic

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

    def openai(url: str, retries: int = 3) -> llm.Generate:
        return llm.connect_openai(f"{url}/v1", "m", retries=retries)

    def google(url: str, retries: int = 3) -> llm.Generate:
        return llm.connect_google("m", url, retries=retries)

    return openai if request.param == "openai" else google


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_is_asked_and_answered_by_either_protocol(endpoint, kind):
    seed = {
        "sql": next(synthetic.table_seeds("train")),
        "caption": Seed("p", (Image(picture()),), ""),
        "retrieval": Seed("t", (Text("A socket is an endpoint of a connection. It has an address."),), "en"),
        "classification": Seed("l", (Text("refund request"),), "refund"),
    }.get(kind, CODE[0])
    with offline.serve() as url:
        reply = asyncio.run(endpoint(url)(make_prompt(TASKS[kind], seed), 3))
        query, positive, label = TASKS[kind].make_pair(seed, parse_reply(reply.text, TASKS[kind].fields))
        rated = asyncio.run(endpoint(url)(make_rating_prompt(TASKS[kind], query, positive), 0))
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
    return "Sure! " + grammar.write_reply(text, images, number)


def test_what_fails_is_tried_again_and_what_is_left_out_is_counted(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "write_reply", unsteady)
    monkeypatch.setattr(Unsteady, "calls", 0)
    plan = GenerationPlan(TASKS["contest"], [*CODE, CODE[0]], max_records=5, max_similarity=0.99)
    with offline.serve(Unsteady) as url:
        cache = llm.ReplyCache(tmp_path / "replies.jsonl", endpoint(url), "m")
        records, counts = asyncio.run(generate_records(plan, cache, max_concurrent=1))
    assert counts == {
        "replies": 13, "refused": 1, "malformed": 1, "rated low": 1, "near duplicates": 1, "over the limit": 4,
        "records": 5,
    }  # fmt: skip
    assert cache.num_sent == 12 + 10  # the same function twice is one question
    groups = [record.provenance["seed"] for record in records]
    assert {int(name[1:]) % 3 for name in groups} == {0, 1, 2}  # in turn
    provenance = records[0].provenance
    assert (
        provenance["prompt"] == TASKS["contest"].instruction
        and provenance["model"] == "m"
        and int(provenance["rating"]) >= 4
    )


def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(tmp_path):
    class Lost(Exception):
        pass

    asked = []

    async def model(prompt, number):
        if len(asked) == 9:
            raise Lost
        asked.append(prompt)
        return await synthetic.reply_by_grammar(prompt, number)

    plan = GenerationPlan(TASKS["feedback"], CODE, max_records=100, min_rating=1)
    with pytest.raises(Lost):
        asyncio.run(generate_records(plan, llm.ReplyCache(tmp_path / "replies.jsonl", model, "m"), max_concurrent=1))
    with (tmp_path / "replies.jsonl").open("a") as file:
        file.write('{"key": "torn')
    asked.append(None)  # past the nine
    cache = llm.ReplyCache(tmp_path / "replies.jsonl", model, "m")
    records, _ = asyncio.run(generate_records(plan, cache, max_concurrent=4))
    assert cache.num_sent == 24 - 9 and len(asked) == 25
    alone, _ = asyncio.run(
        generate_records(
            plan, llm.ReplyCache(tmp_path / "other.jsonl", synthetic.reply_by_grammar, "m"), max_concurrent=1
        )
    )
    assert {r.id: r for r in records} == {r.id: r for r in alone}
    again = llm.ReplyCache(tmp_path / "replies.jsonl", model, "m")
    asyncio.run(generate_records(plan, again, max_concurrent=1))
    assert again.num_sent == 0


def test_an_endpoint_that_is_not_there_is_named(endpoint, tmp_path):
    with pytest.raises(llm.LLMError, match=r"127\.0\.0\.1:9.*does not answer for model m"):
        asyncio.run(endpoint("http://127.0.0.1:9", retries=0)((Text("x"),), 0))


@pytest.mark.parametrize("reply", ["", "{}", '{"query": ""}', "{broken", '["query"]', '{"question": "x"}'])
def test_a_reply_without_the_fields_is_refused(reply):
    with pytest.raises(ValueError, match=r"\w"):
        parse_reply(reply, ("query",))
    assert parse_reply('so: {"query": "x\\n{y}"} .', ("query",)) == {"query": "x\n{y}"}


def test_a_mistake_is_put_into_a_function():
    for number in range(20):
        asked = "".join(part.text for part in make_prompt(TASKS["feedback"], CODE[0]))
        question = json.loads(grammar.write_reply(asked, [], number))["question"]
        assert CODE[0].content[0].text not in question and "def read_thing0" in question


def test_the_corpus_is_code_of_its_split_alone(monkeypatch):
    monkeypatch.setattr(synthetic, "NUM_FUNCTIONS", 40)
    monkeypatch.setattr(synthetic, "NUM_TABLES", 20)
    found = {split: list(synthetic.code_records(split)) for split in ("train", "dev", "test")}
    assert all(len(records) > 20 for records in found.values())
    seen = {split: {record.positive for record in records} for split, records in found.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["dev"]
    assert {record.id.split("/")[1] for record in found["train"]} == {"contest", "feedback", "sql"}


def test_the_experiment_writes_its_datasets_once(tmp_path, monkeypatch, capsys, caplog, process_state):
    for name in set(toy_corpora.CORPORA) - {"scenes_labels", "scenes_image", "stdlib_text"}:
        monkeypatch.delitem(toy_corpora.CORPORA, name)
    toy_corpora.build(tmp_path / "data", max_records=16)
    line = ["synthesize", "--workdir", str(tmp_path / "runs"), "--data", str(tmp_path / "data"), "--seeds", "12"]
    assert command.main(line) == 0
    first = capsys.readouterr()
    assert "0.00 dollars in all" in first.out and "code: contest: 12 replies" in caplog.text
    found = {
        name: list(read_records(open_split(tmp_path / "runs" / "synthetic" / name, "train")))
        for name in datasets.DATASETS
    }
    assert all(found.values()) and isinstance(found["image"][0].positive[0], Image)
    assert {record.label for record in found["text"]} > {""}
    assert command.main(line) == 0
    assert "0 prompts sent now" in capsys.readouterr().out
