"""Long-CoT sampling: one scheduler that knows what is missing, thin back ends that generate."""
