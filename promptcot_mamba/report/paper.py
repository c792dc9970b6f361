"""The published numbers, as data. Percent unless said otherwise; None where the papers print a dash."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SCALING = "Zhao, Wu, Kong: Scaling Reasoning without Attention, arXiv 2505.22425 (2025)"
PROMPTCOT = "Zhao, Wu, Guan, Kong: PromptCoT, arXiv 2503.02324 (2025)"


@dataclass(frozen=True)
class PublishedTable:
    """Rows of a published table: model -> value by column; `spread` holds ± where the paper prints one."""

    title: str
    source: str
    columns: tuple[str, ...]  # keys of BENCHMARKS, or what the paper calls the column
    rows: dict[str, tuple[float | None, ...]]
    spread: dict[str, tuple[float | None, ...]]
    ours: tuple[str, ...] = ()  # rows that this project's runs stand beside
    note: str = ""
    same: Mapping[str, str] = field(default_factory=dict)  # row -> the name of the same model in another table

    def value(self, model: str, column: str) -> float | None:
        """One cell; None where the paper has none."""
        return self.rows[model][self.columns.index(column)]


GENERAL_PERFORMANCE = PublishedTable(
    title="General performance",
    source=SCALING,
    columns=("math500", "aime24", "aime25", "olympiadbench", "humaneval", "humanevalplus", "livecodebench"),
    rows={
        "PromptCoT-Mamba-7B": (84.6, 35.2, 24.6, 50.7, 81.7, 75.0, 29.9),
        "Gemma3-27B": (89.0, 32.6, 24.0, 54.2, 86.0, 78.0, 26.9),
        "Gemma3-12B": (83.8, 22.9, 19.2, 49.9, 81.1, 73.2, 22.2),
        "Sky-T1-7B": (85.0, 19.2, 19.2, 49.2, 41.5, 37.2, 18.3),
        "S1.1-7B": (82.0, 19.2, 17.5, 43.1, 64.0, 56.7, 13.3),
        "Bespoke-Stratos-7B": (81.2, 18.3, 16.3, 45.0, 73.2, 68.3, 8.6),
        "Nemotron-H-8B": (77.6, None, None, None, 79.3, 74.4, None),
        "M1-3B": (81.7, 23.0, 22.0, 43.6, None, None, None),
    },
    spread={},
    ours=("PromptCoT-Mamba-7B",),
)

MATH_SPECIALISATION = PublishedTable(
    title="Math specialisation",
    source=SCALING,
    columns=GENERAL_PERFORMANCE.columns,
    rows={
        "PromptCoT-Mamba-7B": GENERAL_PERFORMANCE.rows["PromptCoT-Mamba-7B"],
        "PromptCoT-Mamba-Math-7B": (88.0, 42.9, 30.8, 52.1, 71.3, 66.5, 20.3),
    },
    spread={},
    ours=("PromptCoT-Mamba-7B", "PromptCoT-Mamba-Math-7B"),
)

# The paper prints how far each part's absence lowers a score; the levels are the full curriculum's less that.
ABLATION = PublishedTable(
    title="Ablation",
    source=SCALING,
    columns=("aime24", "livecodebench"),
    rows={
        "full curriculum": (35.2, 29.9),
        "without PromptCoT's problems": (11.7, None),
        "without OpenThoughts2": (11.4, None),
        "without OpenCodeReasoning": (None, 13.6),
    },
    spread={},
    ours=("full curriculum", "without PromptCoT's problems", "without OpenThoughts2", "without OpenCodeReasoning"),
    same={"full curriculum": "PromptCoT-Mamba-7B"},
    note="The paper's AIME values without a part are 35.2 less the differences it prints. All arms run at quickstart "
    "scale with scripts.quickstart.run_ablations, whose record stands below if there is one; at 7B they are data "
    "recipes (configs/ablations).",
)

# Mamba-2 7B over S1.1-7B (Qwen2.5-7B shapes), tokens/s in vLLM: budget in GB -> ratio.
THROUGHPUT_RATIOS = {24: 3.66, 72: 1.69}

PROMPTCOT_DS = PublishedTable(
    title="PromptCoT-DS and PromptCoT-QwQ",
    source=PROMPTCOT + ", and its repository; ± is the SD over 8 runs",
    columns=("gsm8k", "math500", "aime24", "aime25"),
    rows={
        "PromptCoT-DS-1.5B": (87.6, 85.3, 41.2, 36.7),
        "R1-Distill-Qwen-1.5B": (None, 83.9, 28.9, 28.1),
        "STILL-3-1.5B": (None, 85.5, 39.3, None),
        "DeepScaleR-1.5B": (None, 87.8, 43.1, 37.1),
        "PromptCoT-DS-7B": (92.8, 93.7, 58.7, 49.2),
        "R1-Distill-Qwen-7B": (None, 92.8, 55.5, 40.0),
        "Qwen2.5-7B-SimpleRL": (None, 82.4, 26.7, None),
        "OpenThinker-7B": (None, 89.6, 30.0, 33.3),
        "OpenR1-Qwen-7B": (None, 90.6, 36.7, 40.0),
        "PromptCoT-QwQ-32B": (96.4, 96.7, 83.8, 75.4),
        "R1-Distill-Qwen-32B": (None, 94.3, 72.6, None),
        "S1-32B": (None, 93.0, 56.7, 26.6),
        "LIMO-32B": (None, 94.8, 57.1, 46.6),
        "QwQ-32B": (None, None, 82.1, 70.8),
    },
    spread={
        "PromptCoT-DS-1.5B": (0.5, 1.1, 6.9, 6.2),
        "PromptCoT-DS-7B": (0.5, 0.7, 3.1, 7.9),
        "PromptCoT-QwQ-32B": (0.2, 0.5, 2.8, 4.7),
    },
    ours=("PromptCoT-DS-1.5B", "PromptCoT-DS-7B", "PromptCoT-QwQ-32B"),
)

# The cost claim of the PromptCoT repository's README ("Efficiency Without Compromise"): training, in A100 hours.
A100_HOURS = {"PromptCoT-DS-1.5B": 240, "DeepScaleR-1.5B": 3800}

TABLES = (GENERAL_PERFORMANCE, MATH_SPECIALISATION, ABLATION, PROMPTCOT_DS)
