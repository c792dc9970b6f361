"""PromptCoT-Mamba: train, sample and grade attention-free reasoning models."""

import os

# CUDA numbers devices by their speed unless told: `CUDA_VISIBLE_DEVICES=1` would be another card than nvidia-smi's 1,
# which this project asks for memory and names. Read when CUDA starts, so that it must be set before; the user's stays.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
