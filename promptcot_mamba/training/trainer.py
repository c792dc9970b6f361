"""HF Trainer, driven by DeepSpeed: token-averaged loss, exact row order, sealed checkpoints, no silent non-numbers.

What the Trainer does well (engines, schedules, mixed precision) is left to it. What is overridden here is what must
hold whatever the number of processes: which rows a step sees, what its loss is the mean of, and when a checkpoint
counts as written.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import SaveStrategy

from promptcot_mamba.checkpoint import refused_writes, writing_weights
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.model.card import write_card
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.ops.sequence_parallel import RowSlice, SliceGroup
from promptcot_mamba.training import run_folder
from promptcot_mamba.training.arguments import SftArguments
from promptcot_mamba.training.batches import StepLoader, StepSampler
from promptcot_mamba.training.lora import load_adapters, merged_weights, save_adapters
from promptcot_mamba.training.losses import example_weights, weighted_loss
from promptcot_mamba.training.meters import StepMeter, count_batch
from promptcot_mamba.training.ranks import gather_lists, sum_over_ranks
from promptcot_mamba.training.slices import SliceCollator
from promptcot_mamba.training.split_adamw import SplitAdamW

Batch = dict[str, Any]
NAMED_IDS = 8  # offending example ids spelled out in an error


class TrainingDivergedError(RuntimeError):
    """A loss or gradient that is not a finite number; the message says at which step and on which examples."""


class SftTrainer(Trainer):
    """Supervised fine-tuning on rows of documents.

    `collate` makes a batch of a list of rows, `collate([])` an empty one; `eval_rows` maps a source to its rows.
    """

    args: SftArguments
    model: PreTrainedModel
    train_dataset: Dataset
    eval_dataset: dict[str, Dataset]  # None where nothing is validated, and then never read

    def __init__(
        self,
        *,
        args: SftArguments,
        collate: Callable[[list[Any]], Batch],
        eval_rows: dict[str, Dataset] | None = None,
        flops_per_token: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        slices: SliceGroup | None = None,
        **kwargs: Any,
    ):
        use_cache = kwargs["model"].config.use_cache
        super().__init__(args=args, data_collator=collate, eval_dataset=eval_rows or None, **kwargs)
        self.model.config.use_cache = use_cache  # the Trainer switches it off, and checkpoints would carry that
        self.meter = StepMeter(args.device, args.world_size, flops_per_token)
        self.slices = slices  # the ranks that hold one row together; None where each holds its own
        self.should_stop = should_stop  # asked once per step, in every process
        self.stop_requested = False  # what the processes agreed on
        self.stopped_at: int | None = None  # the step after which they did stop
        self._losses: list[tuple[torch.Tensor, list[str]]] = []  # the step's micro-batches and their examples

    # ---- rows -------------------------------------------------------------------------------------------------

    def _loader(self, rows: Dataset, rows_per_device: int, *, shuffle: bool) -> StepLoader:
        """Shuffled rows are training's. The ranks of a slice group share each batch, a slice for each."""
        collate, share = self.data_collator, 1
        if self.slices is not None:
            share = self.slices.size
            weighted = shuffle and self.args.loss_average == "examples"
            collate = SliceCollator(collate, share, self.slices.index, weighted)
        sampler = StepSampler(
            len(cast(Sized, rows)),
            rows_per_device,
            world_size=self.args.world_size // share,
            rank=self.args.process_index // share,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            shuffle=shuffle and not getattr(rows, "ordered", False),  # a curriculum keeps its order
        )
        workers = self.args.dataloader_num_workers
        return StepLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.device.type == "cuda" and self.args.dataloader_pin_memory,
        )

    def get_train_dataloader(self) -> StepLoader:
        return self._loader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True)

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device):
        """A step's micro-batches, and the number that its loss is divided by, over all processes.

        One small all-reduce carries that number, the step's counts, and whether any process wants to stop.
        """
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = [sum(column) for column in zip(*map(count_batch, batches), strict=True)]
        total = torch.tensor([*counts, int(self.should_stop())], dtype=torch.int64, device=device)
        *counts, stop = sum_over_ranks(total).tolist()
        self.stop_requested = stop > 0
        self.meter.add(counts)
        return batches, self.count_items(labelled=counts[0], documents=counts[3])

    def count_items(self, labelled: int, documents: int) -> int:
        """What a step's loss is the mean over, of its labelled tokens and documents on all processes."""
        return labelled if self.args.loss_average == "tokens" else documents

    # ---- loss -------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The micro-batch's part of the step's mean loss, times the number of processes.

        The engine averages the processes' gradients: the product makes that a sum again, so that a step's gradient
        is that of (sum of all its token losses) / (number of its labelled tokens).
        """
        inputs = {key: value for key, value in inputs.items() if key != "example_ids"}
        if self.slices is not None:
            loss = model(**self._placed(inputs), use_cache=False, num_items_in_batch=num_items_in_batch)["loss"]
        elif self.args.loss_average == "examples":
            loss = weighted_loss(model, inputs, example_weights(inputs["labels"], inputs.get("cu_seqlens")))
            assert num_items_in_batch is not None  # `get_batch_samples` counts them
            loss = loss / num_items_in_batch
        else:
            loss = model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch)["loss"]
        return loss * self.args.world_size

    def _placed(self, inputs: Batch) -> Batch:
        """What the model takes of a batch: of a slice its place in the row, and labels shifted before it was cut."""
        if self.slices is None:
            return inputs
        place = RowSlice(self.slices, inputs["continued"], inputs["continues"])
        left_out = ("labels", "documents", "continued", "continues")
        return {key: value for key, value in inputs.items() if key not in left_out} | {"place": place}

    def training_step(
        self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        self.loss_is_scaled_for_ga = True  # the loss is already its share of the step's: nothing is left to divide
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append((loss, inputs["example_ids"]))  # read at the step's end: no device sync here
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """The step's gradient norm. Raises TrainingDivergedError, in every process, unless it and the loss are finite.

        DeepSpeed skips an update whose gradient is not finite, and without it the optimizer has not stepped yet: the
        weights are still those of the step before.
        """
        norm = float(super()._get_grad_norm(model, grad_norm))
        suspects = [identity for loss, ids in self._losses if not torch.isfinite(loss) for identity in ids]
        any_suspect = sum_over_ranks(torch.tensor(len(suspects), device=self.args.device)).item()
        seen = suspects if any_suspect else [identity for _, ids in self._losses for identity in ids]
        self._losses = []
        if any_suspect or not math.isfinite(norm):
            what, ids = "loss" if any_suspect else "gradient", gather_lists(seen)
            more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
            raise TrainingDivergedError(
                f"step {self.state.global_step + 1}: the {what} is not finite (gradient norm {norm}); "
                f"examples: {', '.join(ids[:NAMED_IDS])}{more}"
            )
        return norm

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay acts on matrices and convolutions; norms, biases, A_log, D and dt_bias are left alone."""
        # Under ZeRO-3 a parameter's own shape is empty; `ds_shape` is the whole one.
        return [name for name, p in model.named_parameters() if len(getattr(p, "ds_shape", p.shape)) >= 2]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's own, or AdamW with split master weights over the same two groups."""
        if not self.args.split_master_weights:
            return super().create_optimizer(*args, **kwargs)
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.optimizer = SplitAdamW(
                [
                    {"params": [p for name, p in named if name in decayed], "weight_decay": self.args.weight_decay},
                    {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
                ],
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return self.optimizer

    # ---- logs -------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.meter.read(steps_left=self.state.max_steps - self.state.global_step)
        super().log(logs, start_time)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"):
        """Mean loss per labelled token on each source's documents, and over all of them."""
        was_training = self.model_wrapped.training
        self.model_wrapped.eval()
        metrics, totals = {}, torch.zeros(2, dtype=torch.float64)
        for source, rows in (self.eval_dataset if eval_dataset is None else eval_dataset).items():
            totals += (summed := self._summed_loss(rows))
            metrics[f"{metric_key_prefix}_{source}_loss"] = float(summed[0] / summed[1])
        metrics[f"{metric_key_prefix}_loss"] = float(totals[0] / totals[1])
        self.model_wrapped.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.meter.restart()
        return metrics

    @torch.no_grad()
    def _summed_loss(self, rows: Dataset) -> torch.Tensor:
        """`[sum of token losses, labelled tokens]` over all processes."""
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in self._loader(rows, self.args.per_device_eval_batch_size, shuffle=False):
            labelled = int((batch["labels"] != IGNORE_INDEX).sum())
            inputs = self._prepare_inputs({key: value for key, value in batch.items() if key != "example_ids"})
            loss = self.model_wrapped(**self._placed(inputs), use_cache=False, num_items_in_batch=1)["loss"]
            totals += torch.stack([loss.double(), torch.tensor(float(labelled), device=totals.device).double()])
        return sum_over_ranks(totals).cpu()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether this step is the best so far: of those that are saved, for another one's weights are gone."""
        if SaveStrategy(self.args.save_strategy) != SaveStrategy.BEST and not self.control.should_save:
            return False
        return super()._determine_best_metric(metrics, trial)

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write a checkpoint beside its name, and move it there once every process has written its part."""
        output_dir = self.args.output_path
        writing = run_folder.writing_folder(output_dir, self.state.global_step)
        try:
            self.save_model(str(writing), _internal_call=True)
            if not self.args.save_only_model:
                with refused_writes(writing):
                    self._save_optimizer_and_scheduler(str(writing))
                    self._save_scaler(str(writing))
                    self._save_rng_state(str(writing))
        except OSError:  # a full disk: what was written would fill it still
            shutil.rmtree(writing, ignore_errors=True)
            raise
        self._barrier()
        if self.args.should_save:
            self.state.save_to_json(str(writing / run_folder.TRAINER_STATE_FILE))
            run_folder.seal(writing, self.state.global_step, self.args.world_size)
            best = self.state.best_global_step if self.args.load_best_model_at_end else None
            run_folder.keep_latest(output_dir, self.args.save_total_limit, best)
        self._barrier()
        self.meter.restart()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Adapters are saved twice: merged into the weights, and alone to continue from."""
        if self.args.lora_rank:
            state_dict = merged_weights(self.model)
        super()._save(output_dir, state_dict)
        if self.args.lora_rank:
            save_adapters(self.model, Path(output_dir or self.args.output_path))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights, or the adapters alone: what they stand beside was loaded from where the run began."""
        if self.args.lora_rank:
            load_adapters(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer's, with a model card, which our own class writes by itself."""
        if not self.args.should_save:  # takes part in gathering the weights, and writes none
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_path)
        with writing_weights(folder):
            super().save_model(output_dir, _internal_call)
        if not isinstance(self.model, Mamba2ForCausalLM):
            write_card(folder, self.model.config)

    def _barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier()
