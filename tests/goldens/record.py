"""The loss curves that pin today's numerics: eight fp32 steps of each phase on a tiny model, by train.py itself.

    python -m tests.goldens.record            # compare with what is stored, in numbers
    python -m tests.goldens.record --renew    # store anew, after a change that is meant to change losses

Both phases take the shipped recipes (configs/sft_phase*.yaml) with a tiny model's sizes and step length; phase 2 starts
from phase 1's weights, on rows of other examples. Everything is drawn from seeds here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.programs.train_helpers import ROOT, losses, run_train, write_examples
from tests.tiny import make_checkpoint

CURVES = Path(__file__).with_name("loss_curves.json")
STEPS = 8
SIZES = {
    "max_length": 256, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "warmup_steps": 2, "max_steps": STEPS,
    "bf16": False, "deepspeed": "", "save_strategy": "no", "report_to": "none",
}  # fmt: skip


def train_curves(work: Path) -> dict[str, list[float]]:
    """Phase -> its loss after 1, 2... steps, trained in this empty folder."""
    model, curves = make_checkpoint(work / "model", n_groups=2), {}
    for number, sources in ((1, ("add",)), (2, ("add", "sum"))):
        phase, data = f"phase{number}", write_examples(work / f"data{number}.jsonl", 48, seed=number, sources=sources)
        recipe = ROOT / f"configs/sft_{phase}.yaml"
        paths = {"model_name_or_path": model, "data_path": data, "output_dir": work / phase}
        done = run_train({"config": recipe, **paths, "token_cache": work / "cache", **SIZES})
        assert done.returncode == 0, done.stderr[-3000:]
        curves[phase] = [loss for _, loss in losses(work / phase)]
        model = work / phase
    return curves


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        curves = train_curves(Path(work))
    if "--renew" in sys.argv[1:]:
        CURVES.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(CURVES.read_text(encoding="utf-8"))
    for phase, curve in curves.items():
        apart = max(abs(ours / theirs - 1) for ours, theirs in zip(curve, stored[phase], strict=True))
        print(f"{phase}: {' '.join(f'{loss:.5f}' for loss in curve)} | at most {apart:.1e} from the stored curve")


if __name__ == "__main__":
    main()
