"""What of an answer's program the function asked for needs: HumanEval runs it, and no example of its use beside it.

EvalPlus (`evalplus/sanitize.py`) keeps imports, and what the function names, directly or not. Here too; but decorated
functions, and tables that a loop or a call fills, which it loses, are kept.
"""

import ast
import symtable
from dataclasses import dataclass

from promptcot_mamba.grading.code.fences import parse_python

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """A statement at the top level: the global names it binds, all that it, or code in it, uses, and whether some of
    that code may run later."""

    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]
    runs_later: bool


def read_names(node: ast.stmt) -> Statement:
    tables = [symtable.symtable(ast.unparse(node), "<answer>", "exec")]
    own = tables[0].get_symbols()
    binds = {name.get_name() for name in own if name.is_assigned() or name.is_imported() or name.is_namespace()}
    uses = {name.get_name() for name in own}
    for table in tables:  # grows meanwhile
        tables += table.get_children()
        uses |= {name.get_name() for name in table.get_symbols() if name.is_global()}
    runs_later = any(isinstance(part, (*DEFINITIONS, ast.Lambda)) for part in ast.walk(node))
    return Statement(node, frozenset(binds), frozenset(uses), runs_later)


def is_defined(tree: ast.Module, entry: str) -> bool:
    """Whether a module's top level defines `entry`: as a function, or by assignment to its name alone."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, DEFINITIONS) and node.name == entry:
            return True
        if any(isinstance(target, ast.Name) and target.id == entry for target in targets):
            return True
    return False


def needed_for(entry: str, statements: list[Statement]) -> list[Statement]:
    """The imports, what binds a name that `entry` needs, and what may change one: it uses it, and not for `entry`.

    Definitions that a function uses count wherever they stand. Other statements count only if they run before the last
    use of a name they bind: a later `n = ...` belongs to something else.
    """
    rest = [(place, one) for place, one in enumerate(statements) if not isinstance(one.node, IMPORTS)]
    definitions = [one for _, one in rest if isinstance(one.node, DEFINITIONS)]
    variables = {name for _, one in rest if one not in definitions for name in one.binds}
    until = {entry: len(statements)}  # the last place at which a name is needed

    def reach(names: frozenset[str]) -> set[str]:
        """Names, and all that the functions and classes among them use."""
        found = set(names)
        while more := {name for one in definitions if one.binds & found for name in one.uses - found}:
            found |= more
        return found

    def needed_at(place: int, one: Statement) -> int:
        """Up to where what a statement uses is needed, -1 if it is not."""
        last = max(until.get(name, -1) for name in one.binds) if one.binds else -1
        if last >= place:
            return last if one.runs_later else place
        if one in definitions:
            return -1
        touched = reach(one.uses)
        is_example = isinstance(one.node, ast.Assert) or entry in touched
        sets_a_part = isinstance(one.node, ast.Assign) and not one.binds  # getcontext().prec = 50
        changes = sets_a_part or any(until.get(name, -1) >= place for name in touched & variables)
        return place if changes and not is_example else -1

    found: dict[int, int] = {}
    while (now := {place: needed_at(place, one) for place, one in rest}) != found:
        found = now
        for place, one in rest:
            until |= {name: max(found[place], until.get(name, -1)) for name in one.uses if found[place] >= 0}
    return [one for place, one in enumerate(statements) if found.get(place, place) >= 0]


def only_needed(program: str, entry: str) -> str | None:
    """A program without what its function `entry` does not need; None if its top level does not define that."""
    tree = parse_python(program)
    if tree is None or not is_defined(tree, entry):
        return None
    try:
        statements = [read_names(node) for node in tree.body]
        kept = [one.node for one in needed_for(entry, statements)]
        return program if kept == tree.body else ast.unparse(ast.Module(kept, []))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # parsed, but no code can be made of it
        return program
