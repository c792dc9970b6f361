"""Mutants of a reference solution: one small change each, by its syntax tree."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip


def _change(node: ast.AST) -> bool:
    """Change one node in place; False if there is nothing to change in it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        node.value = not node.value
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value += 1
    elif isinstance(node, ast.Constant) and type(node.value) is str and node.value and "\n" not in node.value:
        node.value += "x"
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.List([node.value], ast.Load())
    elif isinstance(node, (ast.If, ast.While)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        return False
    return True


def make_mutants(head: str, body: str) -> Iterator[str]:
    """Every program that differs from `head + body` by one change in the function's body, as source text."""
    tree = ast.parse(head + body)
    first_line = head.count("\n")
    places = [
        place
        for place, node in enumerate(ast.walk(tree))
        if getattr(node, "lineno", 0) > first_line and _change(copy.deepcopy(node))
    ]
    for place in places:
        mutant = copy.deepcopy(tree)
        _change(list(ast.walk(mutant))[place])
        yield ast.unparse(ast.fix_missing_locations(mutant))
