"""Sections of DeepSpeed configs as transformers' documentation and tests have them, shared by several tests."""

AUTO_SIZES = dict.fromkeys(
    ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto"
)
SCALER = {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2}
ADAMW = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
WARMUP = dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto")
ZERO3 = {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto", "sub_group_size": 1e9}
CPU = {"device": "cpu", "pin_memory": True}
DOCUMENTED = {  # transformers' page on DeepSpeed, ZeRO-2
    **AUTO_SIZES, "fp16": SCALER, "optimizer": ADAMW, "scheduler": {"type": "WarmupLR", "params": WARMUP},
    "zero_optimization": {"stage": 2, "offload_optimizer": CPU, "overlap_comm": True, "reduce_bucket_size": 5e8},
    "steps_per_print": 2000, "wall_clock_breakdown": False, "amp": {"enabled": "auto", "opt_level": "auto"},
}  # fmt: skip
