"""The demonstrations at quickstart scale: exercises, their exact solver, splits, a small synthesis, the report."""
