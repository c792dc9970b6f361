"""Direct preference optimisation on packed pairs: `--objective dpo`.

Rafailov et al., arXiv 2305.18290, equation 7: with r = log p(answer | prompt) - log p_ref(answer | prompt), a pair's
loss is -log sigmoid(beta (r_chosen - r_rejected)). With `--nll_weight` the mean -log p of the chosen answer's tokens is
added to it (arXiv 2404.19733, equation 1): a difference alone may be won while both answers become unlikely. An
answer's log-probability is the sum over its tokens, end of text included, of the chunked cross-entropy that supervised
training uses too: whole logits are never made. The reference is the model that training starts from, so its
log-probabilities are computed once, before the first step, into a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch.nn.functional import softplus
from transformers import TrainerCallback

from promptcot_mamba.data.preferences import PairRows
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import replace_atomically
from promptcot_mamba.log import logger
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.ops.packing import seq_idx_from_cu_seqlens
from promptcot_mamba.training.identity import DATA_KEY, TOKENIZER_KEY
from promptcot_mamba.training.ranks import first_does, sum_over_ranks
from promptcot_mamba.training.run_folder import MODEL_KEY, Identity
from promptcot_mamba.training.trainer import Batch, SftTrainer

REFERENCE_FILE = "reference.npz"
REFERENCE_IS_OF = (MODEL_KEY, DATA_KEY, TOKENIZER_KEY)  # what log-probabilities depend on


def sum_by_document(values: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """values (1, l) of a packed row, cu_seqlens (docs + 1) -> their sums (docs)."""
    return values.new_zeros(len(cu_seqlens) - 1).index_add(0, seq_idx_from_cu_seqlens(cu_seqlens)[0], values[0])


def answer_logps(model: Any, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(docs) log-probabilities of the answers of a packed row, and (docs) how many tokens each has."""
    losses = model(**inputs, token_losses=True, use_cache=False)["loss"]  # (1, l)
    labelled = (inputs["labels"] != IGNORE_INDEX).to(losses.dtype)
    return -sum_by_document(losses, inputs["cu_seqlens"]), sum_by_document(labelled, inputs["cu_seqlens"])


def dpo_losses(ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """ratios (2 pairs), log p - log p_ref of chosen, rejected, chosen... -> the pairs' losses (pairs)."""
    chosen, rejected = ratios.view(-1, 2).unbind(1)
    return softplus(-beta * (chosen - rejected))


def read_reference(path: Path, identity: Identity, wanted: np.ndarray) -> np.ndarray:
    """(documents of the store) fp64 log-probabilities, not a number where a document was left out; `wanted` are needed.

    Raises InputError for a file of another model or other data, one that lacks wanted documents, or none at all.
    """
    try:
        with np.load(path) as file:
            found, logps = json.loads(str(file["identity"])), file["logps"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(f"{path}: no reference log-probabilities of this program ({error})") from None
    wrong = [name.partition(" ")[0] for name in REFERENCE_IS_OF if found.get(name) != identity[name]]
    if wrong or np.isnan(logps[wanted]).any():
        raise InputError(
            f"{path}: log-probabilities under another {' and '.join(wrong) or 'selection of rows'} than this run's; "
            "leave --reference_path out to have them computed"
        )
    return logps


class _BeforeTheFirstStep(TrainerCallback):
    """Engines are made and checkpoints loaded when this is called."""

    def __init__(self, trainer: PreferenceTrainer):
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.find_reference()


class PreferenceTrainer(SftTrainer):
    """Trains on `PairRows`; what is logged has TRL's names: rewards are beta times the log-ratios."""

    def __init__(self, *, identity: Identity, **kwargs: Any):
        super().__init__(**kwargs)
        self._identity = identity
        self._reference = torch.zeros(0)  # (docs of the store) fp64, once training begins
        self._sums = torch.zeros(6, dtype=torch.float64, device=self.args.device)
        self.add_callback(_BeforeTheFirstStep(self))

    @property
    def pairs(self) -> PairRows:
        return cast(PairRows, self.train_dataset)

    @property
    def reference_path(self) -> Path:
        return Path(self.args.reference_path or self.args.output_path / REFERENCE_FILE)

    def find_reference(self) -> None:
        """Read the reference's log-probabilities, or compute and keep them where nothing has been trained yet."""
        path = self.reference_path
        if self.args.reference_path is None and not first_does(path.exists):
            if self.state.global_step:
                raise InputError(f"{path}: gone, and a trained model cannot compute it; start another --output_dir")
            logps = self._score_reference()
            first_does(lambda: self._write_reference(path, logps))
        logps = first_does(lambda: read_reference(path, self._identity, self.pairs.selection.documents))
        self._reference = torch.from_numpy(logps).to(self.args.device)

    def _write_reference(self, path: Path, logps: np.ndarray) -> None:
        is_of = {name: self._identity[name] for name in REFERENCE_IS_OF}
        with replace_atomically(path, "wb") as file:
            np.savez(file, logps=logps, identity=json.dumps(is_of))

    @torch.no_grad()
    def _score_reference(self) -> np.ndarray:
        """Every process scores its share of the rows; (documents of the store) on all of them."""
        chosen = self.pairs.selection.documents
        logger.info("reference: log-probabilities of %s answers", f"{len(chosen):,}")
        self.model_wrapped.eval()
        logps = torch.zeros(len(self.pairs.store), dtype=torch.float64, device=self.args.device)
        for batch in self._loader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=False):
            inputs = self._prepare_inputs({key: value for key, value in batch.items() if key != "example_ids"})
            scored = inputs.pop("store_documents", torch.zeros(0, dtype=torch.int64, device=logps.device))
            found, _ = answer_logps(self.model_wrapped, inputs)
            logps[scored] = found[: len(scored)].double()
        self.model_wrapped.train()
        summed = sum_over_ranks(logps).cpu().numpy()
        return np.where(np.isin(np.arange(len(summed)), chosen), summed, np.nan)

    def count_items(self, labelled: int, documents: int) -> int:
        """A step's loss is the mean over its pairs."""
        return documents // 2

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As SftTrainer's, of the pairs' losses. A process without rows in the last step adds nothing."""
        inputs = {key: value for key, value in inputs.items() if key != "example_ids"}
        documents = inputs.pop("store_documents", None)
        logps, lengths = answer_logps(model, inputs)
        if documents is None:
            return logps.sum() * 0
        ratios = logps - self._reference[documents].to(logps.dtype)
        self._add_metrics(logps.detach(), ratios.detach(), lengths)
        losses = dpo_losses(ratios / lengths if self.args.length_normalised else ratios, self.args.beta)
        if self.args.nll_weight:
            losses = losses - self.args.nll_weight * (logps / lengths)[::2]
        assert num_items_in_batch is not None  # `get_batch_samples` counts them
        return losses.sum() / num_items_in_batch * self.args.world_size

    def _add_metrics(self, logps: torch.Tensor, ratios: torch.Tensor, lengths: torch.Tensor) -> None:
        rewards = (ratios / lengths if self.args.length_normalised else ratios) * self.args.beta
        chosen, rejected = rewards.view(-1, 2).unbind(1)
        right = (chosen > rejected).sum()
        sums = (chosen.sum(), rejected.sum(), right, -(logps / lengths)[::2].sum(), -ratios.sum(), lengths.sum())
        self._sums += torch.stack([value.double() for value in sums])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also `nll`, the mean -log p of a chosen answer's tokens, and `kl`: a sample estimate of
        KL(reference || policy) in nats a token, unbiased where the reference wrote the answers.
        """
        if "loss" in logs:
            pairs = max(self.meter.documents // 2, 1)
            chosen, rejected, right, nll, drop, tokens = sum_over_ranks(self._sums).tolist()
            self._sums.zero_()
            logs |= {
                "rewards/chosen": chosen / pairs,
                "rewards/rejected": rejected / pairs,
                "rewards/margins": (chosen - rejected) / pairs,
                "rewards/accuracies": right / pairs,
                "nll": nll / pairs,
                "kl": drop / max(tokens, 1),
            }
        super().log(logs, start_time)
