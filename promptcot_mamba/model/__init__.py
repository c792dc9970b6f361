"""Mamba-2 as a transformers model, and the one door every program loads a causal language model by."""

from promptcot_mamba.model.causal_lm import Mamba2ForCausalLM
from promptcot_mamba.model.weights import load_causal_lm

__all__ = ["Mamba2ForCausalLM", "load_causal_lm"]
