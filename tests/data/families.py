"""Six small tokenizers in the shapes of published ones: their special tokens, their ways of cutting text."""

from __future__ import annotations

from typing import Any

from tests.tiny import CORPUS

TEXTS = [
    *CORPUS,
    "</s> [INST] a [/INST] <|im_end|> <|eot_id|> <end_of_turn> <\uff5cUser\uff5c> <s>old price</s> < / s > [ ] INST",
    "for (int i = 0; i < n; i++) { x[i] <<= 1; } // </s> is a tag\n\n    indented    text",
] * 3  # fmt: skip
SPECIAL = {
    "codestral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
    "mistral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused0>"),
    "deepseek": ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
}  # fmt: skip
# Added without the `special` flag, as their publishers do.
ADDED = {
    "qwen2": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    "deepseek": ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"),
    "gemma": ("<table>", "  "),
}
ENDS = {
    "codestral": ("<s>", "</s>"), "mistral": ("<s>", "</s>"), "qwen2": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<eos>"), "deepseek": SPECIAL["deepseek"],
}  # fmt: skip


def make_family_tokenizer(name: str) -> Any:
    """A `PreTrainedTokenizerFast` whose vocabulary could even compose its special tokens from pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special, (bos, eos) = SPECIAL[name], ENDS[name]
    sentencepiece = name in ("codestral", "mistral", "gemma")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if name == "gemma":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=list(special), unk_token="<unk>", show_progress=False
        )
    else:
        unk = "<unk>" if sentencepiece else None
        tokenizer = Tokenizer(models.BPE(unk_token=unk, ignore_merges=name == "llama3"))
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=list(special), show_progress=False,
            initial_alphabet=[] if sentencepiece else alphabet,
        )  # fmt: skip
    if sentencepiece:
        scheme = "first" if name == "mistral" else "always" if name == "codestral" else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=name != "gemma")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
        if name == "gemma":
            tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainer)
    if name == "mistral":
        tokenizer = _with_merges_into(tokenizer, special)
    for content in ADDED.get(name, ()):
        tokenizer.add_tokens([AddedToken(content, special=False, normalized=False)])
    if bos is not None:
        pair = (bos, tokenizer.token_to_id(bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[pair])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def _with_merges_into(tokenizer: Any, special: tuple[str, ...]) -> Any:
    """Merges that lead from characters to the special tokens, as conversions from sentencepiece can leave them."""
    import json

    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], [tuple(merge) for merge in state["model"]["merges"]]
    for content in special:
        for end in range(2, len(content) + 1):
            for piece in (content[: end - 1], content[end - 1]):
                vocab.setdefault(piece, len(vocab))
            if end < len(content):
                vocab.setdefault(content[:end], len(vocab))
            merges.insert(0, (content[: end - 1], content[end - 1]))
    first: dict[tuple[str, str], None] = dict.fromkeys(sorted(merges, key=lambda pair: len("".join(pair))))
    state["model"]["merges"] = [list(pair) for pair in first]
    return Tokenizer.from_str(json.dumps(state))
