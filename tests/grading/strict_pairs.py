"""Hand-written pairs: how answers are really written, and what must not pass for them. One `gold | answer` a line."""

from pathlib import Path

HERE = Path(__file__).parent


def read(name: str) -> list[tuple[str, str]]:
    """The pairs of a file beside this one; the answer is empty where nothing follows the bar."""
    lines = (HERE / name).read_text(encoding="utf-8").strip().splitlines()
    pairs = []
    for line in (line for line in lines if not line.startswith("# ")):
        gold, _, answer = line.partition(" | ") if " | " in line else (line.removesuffix(" |"), "", "")
        pairs.append((gold, answer))
    return pairs


SAME, DIFFERENT = read("strict_same.txt"), read("strict_different.txt")
