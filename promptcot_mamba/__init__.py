"""PromptCoT-Mamba: train, sample and grade attention-free reasoning models."""
