"""Which chat template a checkpoint is saved with: the one that its training prompts were written in."""

from typing import Any

from promptcot_mamba.chat_format import CHAT_TEMPLATE, THINK_START
from promptcot_mamba.chat_markup import CHATML, FAMILIES, find_rendered
from promptcot_mamba.data.conversation import OURS, OWN
from promptcot_mamba.data.rows import Formats
from promptcot_mamba.log import logger


def formats_of(rows: Any) -> Formats:
    """How the prompts of training rows are rendered: of a token store's rows, or of prepared shards' manifest.

    Shards made before their manifest said so hold our format, or, where the recipe asked for published chat text,
    what the tokenizer's own template writes.
    """
    rows = getattr(rows, "source", rows)  # UnpackedRows
    store = getattr(rows, "store", rows)
    if hasattr(store, "formats"):
        return store.formats
    manifest = rows.manifest
    if "formats" in manifest:
        return Formats(manifest["formats"]["counts"], manifest["formats"]["samples"])
    published = any(source.get("published_prompt") for source in manifest.get("recipe", {}).get("sources", []))
    return Formats({OWN if published else OURS: 1}, [])  # type: ignore[arg-type]


def _writes(template: str, tokenizer: Any, prompt: str) -> bool:
    """Whether a template renders this prompt, give or take the beginning-of-text token and an opened thought."""
    from jinja2 import TemplateError

    found = find_rendered(prompt)
    if found is None:
        return False
    messages = [{"role": turn.role, "content": turn.text} for turn in found.turns]
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError):
        return False
    bos = tokenizer.bos_token or ""

    def bare(written: str) -> str:
        return written.removeprefix(bos).strip().removesuffix(THINK_START).strip()

    return bare(text) == bare(prompt)


def _by_samples(name: str, samples: list[str], tokenizer: Any) -> str | None:
    """The tokenizer's own template if it writes the samples of a format, else the format's."""
    own = tokenizer.chat_template
    mine = [prompt for prompt in samples if (found := find_rendered(prompt)) and found.family == name]
    if own is not None and mine and all(_writes(own, tokenizer, prompt) for prompt in mine):
        return own
    opens = bool(mine) and all(find_rendered(prompt).opens_thought for prompt in mine)  # type: ignore[union-attr]
    if name == CHATML and opens:
        return CHAT_TEMPLATE
    template = FAMILIES[name].template
    if opens and name != CHATML:
        generation = template.rindex("{% if add_generation_prompt %}")
        return template[:generation] + template[generation:].replace("' }}", "<think>\\n' }}", 1)
    return template


def choose_template(rows: Any, tokenizer: Any) -> str | None:
    """The chat template to save with what was trained on `rows`, None where nobody's template writes its prompts.

    `rows` is a token store, its rows, or shards. Our format: CHAT_TEMPLATE. A published format: the tokenizer's own
    template if it writes these prompts, else that format's. Of several formats the most frequent, with a warning.
    """
    formats = formats_of(rows)
    if not formats.counts:
        return CHAT_TEMPLATE
    name, count = max(formats.counts.items(), key=lambda item: item[1])
    if len(formats.counts) > 1:
        shares = ", ".join(f"{number:,} {one}" for one, number in formats.counts.items())
        logger.warning(
            "prompts are rendered in several formats (%s); the checkpoint's template is that of %s", shares, name
        )
    if name == OURS:
        return CHAT_TEMPLATE
    if name == OWN:
        return tokenizer.chat_template
    if name in FAMILIES:
        return _by_samples(name, formats.samples, tokenizer)
    logger.warning("the prompts are text that no known chat template writes (%s of them); none is saved", f"{count:,}")
    return None
