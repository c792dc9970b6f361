"""What an exported checkpoint says of itself: a model card, and for Mamba-2 the code that plain transformers needs."""

import shutil
from pathlib import Path

from transformers import PreTrainedConfig

CARD_FILE = "README.md"
CODE = Path(__file__).with_name("modeling_mamba2_grouped.py")
AUTO_MAP = {"AutoModelForCausalLM": f"{CODE.stem}.Mamba2ForCausalLM"}
OTHER_MATHS = """
**Plain `AutoModelForCausalLM.from_pretrained(folder)` computes something else.** This model normalises each of its
{n_groups} groups of channels by itself, as mamba-ssm and vLLM do; transformers' own Mamba-2 normalises over all of them
at once, without a word. Pass `trust_remote_code=True`: the code beside the weights ({code}) is right.
"""
CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [{tags}]
---
# {title}

{config.num_hidden_layers} layers of width {config.hidden_size}, vocabulary {config.vocab_size}, by PromptCoT-Mamba.
`run.json`, where it lies beside this card, holds the command, data and settings.
{warning}
vLLM, as it is:

```python
from vllm import LLM, SamplingParams
llm = LLM("path/to/this/folder"{vllm_extra})
llm.chat([{{"role": "user", "content": "Find 17 * 23."}}], SamplingParams(temperature=0.8, top_p=0.95, max_tokens=4096))
```

PromptCoT-Mamba, which samples, continues and grades whole benchmarks:

```bash
python infer_longcot.py --model_path path/to/this/folder --data_path problems.jsonl --output_path samples.jsonl
```

transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder"{transformers_extra})
```
"""


def write_card(folder: Path, config: PreTrainedConfig) -> None:
    """Write the card, which names what loads the checkpoint rightly, and what does not."""
    is_mamba2 = config.model_type == "mamba2"
    grouped = is_mamba2 and config.n_groups > 1
    text = CARD.format(
        config=config,
        title="A Mamba-2 reasoning model" if is_mamba2 else f"A reasoning model ({config.model_type})",
        tags="mamba2, reasoning" if is_mamba2 else "reasoning",
        warning=OTHER_MATHS.format(n_groups=config.n_groups, code=CODE.name) if grouped else "",
        vllm_extra=', mamba_ssm_cache_dtype="float32"' if is_mamba2 else "",
        transformers_extra=", trust_remote_code=True" if is_mamba2 else "",
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def write_code(folder: Path) -> None:
    """Copy the code that `AUTO_MAP` names."""
    shutil.copyfile(CODE, folder / CODE.name)
