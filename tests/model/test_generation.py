"""Every way of `generate` chooses the tokens that transformers' own Mamba-2 chooses.

The generation tests of transformers' own suite are in its repository alone (`tests.model.common_suite` runs them where
a checkout is at hand); these ask for the same ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from promptcot_mamba.model import load_causal_lm
from tests.model.conftest import load_transformers
from tests.tiny import make_checkpoint

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy without a cache": {"use_cache": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 40},
    "several sequences": {"do_sample": True, "num_return_sequences": 3},
    "beam search": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "end of text": {"eos_token_id": list(range(3, 200))},
    "prompt look-up": {"prompt_lookup_num_tokens": 2},
}


@pytest.fixture(scope="module", params=[1, 2], ids=["g1", "g2"])
def models(request, tmp_path_factory) -> tuple[Any, Any]:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("generate"), n_groups=request.param, seed=5)
    return load_causal_lm(folder, dtype=torch.float32).eval(), load_transformers(folder).eval()


def prompts(padded: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 380, (2, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, way: dict[str, Any], inputs: dict[str, torch.Tensor]) -> Any:
    torch.manual_seed(0)
    return model.generate(**inputs, max_new_tokens=8, **{"do_sample": False, "eos_token_id": None, **way})


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_transformers(models, way: str):
    inputs = prompts(padded=False)
    if way == "prompt look-up":  # rolls the cache back, which no recurrent state can
        inputs = {name: value[:1] for name, value in inputs.items()}
        messages = []
        for model in models:
            with pytest.raises(ValueError, match="stateful models") as caught:
                generate(model, WAYS[way], inputs)
            messages.append(str(caught.value).replace(type(model).__name__, ""))
        assert messages[0] == messages[1]
        return
    ours, theirs = (generate(model, WAYS[way], inputs) for model in models)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("way", ["greedy", "greedy without a cache", "beam search"])
def test_a_padded_prompt_goes_on_as_it_does_alone(models, way: str):
    """transformers' own lets left padding reach the state through its convolution's bias; ours computes no padding."""
    ours = models[0]
    inputs = prompts(padded=True)
    settings = {**WAYS[way], "num_return_sequences": 1} if "num_beams" in WAYS[way] else WAYS[way]
    together = generate(ours, settings, inputs)[:, 9:]
    for row, first in ((0, 4), (1, 0)):
        alone = {name: value[row : row + 1, first:] for name, value in inputs.items()}
        assert torch.equal(generate(ours, settings, alone)[0, 9 - first :], together[row])


def test_what_generate_tells_beside_tokens(models):
    told = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_hidden_states": True}
    ours, theirs = (generate(model, told, prompts(padded=False)) for model in models)
    for name in ("scores", "logits"):
        for one, other in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 8
    assert [state.shape for state in ours.hidden_states[1]] == [state.shape for state in theirs.hidden_states[1]]


def test_embeddings_lead_to_the_same_tokens(models):
    ours, inputs = models[0], prompts(padded=False)
    whole = generate(ours, {}, inputs)
    embedded = {
        "inputs_embeds": ours.get_input_embeddings()(inputs["input_ids"]), "attention_mask": inputs["attention_mask"]
    }  # fmt: skip
    assert torch.equal(generate(ours, {}, embedded), whole[:, 9:])
