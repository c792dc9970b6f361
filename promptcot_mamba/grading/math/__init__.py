"""Final answers: cut out of completions, compared with golds, by a strict and by the published rule."""
