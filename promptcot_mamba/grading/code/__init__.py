"""Programs: cut out of completions, run against tests or by HumanEval's checks, judged by value."""
