"""Models behind servers: the same rows as in process, likelihoods of prompts, servers that fail midway."""

from __future__ import annotations

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.sampling.backend import BackendFailedError
from promptcot_mamba.synthesis import STAGES, embeddings
from promptcot_mamba.synthesis.embeddings import embed_texts
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.stage import Context, settings_from
from tests.synthesis.scripted import SETTINGS, ScriptedModel, answer


def open_models(server, **changes) -> ModelBook:
    return ModelBook({"m": {"base_url": server.url, "served_model_name": "tiny", "context": 4096, **changes}})


def run_stages(folder, seeds, open_model, *stages: str) -> None:
    context = Context(folder, 0, open_model)
    for stage in stages:
        settings_class, function = STAGES[stage].load()
        values = {**SETTINGS[stage], **({"seeds": str(seeds)} if stage == "concepts" else {})}
        function(settings_from(settings_class, values, stage), context)


@pytest.mark.parametrize("tokenizer", ["the server's", "a folder's"])
def test_a_servers_replies_make_the_rows_of_a_model_in_process(
    tmp_path, seeds, start_server, tokenizer_folder, tokenizer
):
    own = {"model_path": str(tokenizer_folder), "chat_template": False} if tokenizer == "a folder's" else {}
    models = open_models(start_server(), concurrency=4, **own)
    model = ScriptedModel(answer)
    run_stages(tmp_path / "here", seeds, lambda name: model, "concepts", "rationales")
    run_stages(tmp_path / "there", seeds, models, "concepts", "rationales")
    models.close()
    for name in ("concepts.jsonl", "rationales.jsonl"):
        assert read_jsonl(tmp_path / "there" / name) == read_jsonl(tmp_path / "here" / name)


def test_a_server_that_goes_away_is_resumed_from(tmp_path, seeds, start_server, monkeypatch):
    server = start_server(seconds=0.05)
    models = open_models(server, concurrency=2, patience=0.3)
    model = models("m")
    submit, asked = model.backend.submit, []

    def submit_and_kill(request):
        asked.append(request)
        if len(asked) == 6:
            server.kill()
        submit(request)

    monkeypatch.setattr(model.backend, "submit", submit_and_kill)
    with pytest.raises(BackendFailedError, match="no server has answered"):
        run_stages(tmp_path / "work", seeds, models, "concepts")
    models.close()
    done = len(read_jsonl(tmp_path / "work" / "concepts.jsonl"))
    assert 0 < done < 10
    models = open_models(start_server())
    asked_again = models("m").backend.generated_tokens
    run_stages(tmp_path / "work", seeds, models, "concepts")
    models.close()
    assert asked_again == 0
    whole = ScriptedModel(answer)
    run_stages(tmp_path / "whole", seeds, lambda name: whole, "concepts")
    assert read_jsonl(tmp_path / "work" / "concepts.jsonl") == read_jsonl(tmp_path / "whole" / "concepts.jsonl")


def test_likelihoods_come_from_the_servers_prompt_log_probabilities(start_server, tokenizer_folder):
    models = open_models(start_server(), model_path=str(tokenizer_folder), chat_template=False, context=64)
    model = models("m")
    pairs = [("the quick", " brown fox"), ("the lazy dog " * 40, "too long"), ("0 1 2", " 3 4 5")]
    scores = list(model.score(pairs))
    models.close()
    assert scores[1] is None
    for (prompt, continuation), score in ((pairs[0], scores[0]), (pairs[2], scores[2])):
        start = model.tokenizer(prompt)["input_ids"]
        ids = [*start, *model.tokenizer(continuation)["input_ids"], model.tokenizer.eos_token_id]
        assert score == pytest.approx(sum(-(ids[i] * 31 + i) % 97 / 10 for i in range(len(start), len(ids))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "models: m: a model needs model_path"),
        ({"base_url": "host:8000"}, "models: m: base_url host:8000: served_model_name is missing"),
        ({"base_uri": "host:8000"}, "models: m: unknown setting 'base_uri'"),
    ],
)
def test_bad_models(values, message):
    with pytest.raises(InputError, match=message):
        ModelBook({"m": values})


def test_likelihoods_need_a_tokenizer(start_server):
    with pytest.raises(InputError, match="models: m: likelihoods need its tokenizer"):
        list(open_models(start_server())("m").score([("a", "b")]))


def test_embeddings_from_a_server_are_asked_for_once(tmp_path, start_server, monkeypatch):
    monkeypatch.setattr(embeddings, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(embeddings, "BATCH", 2)
    server = start_server(break_first=2)
    texts = ["gcd", "lcm", "prime", "sine rule", "cosine rule"]
    vectors = embed_texts(texts, "tiny", tmp_path / "cache.jsonl", server.url)
    assert list(vectors) == texts
    assert len({tuple(vector) for vector in vectors.values()}) == 5
    server.kill()
    assert embed_texts(texts, "tiny", tmp_path / "cache.jsonl", server.url) == vectors
    with pytest.raises(InputError, match=r"embedding_url .*does it serve the embedding model tiny"):
        embed_texts(["new"], "tiny", tmp_path / "cache.jsonl", server.url)
