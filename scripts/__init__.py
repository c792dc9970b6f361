"""Programs run as `python -m scripts.x`."""
