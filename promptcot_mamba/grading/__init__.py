"""Grading: cut answers out of completions, compare them with golds, run programs against tests, count."""
