"""Source text to code, as a file of its own would be compiled."""

from types import CodeType

BYTE_ORDER_MARK = "\ufeff"  # legal at a file's start, not in a text
PROGRAM_FILE = "<program>"
MAIN_FUNCTION = "__prelude__"  # a name that a program's namespace holds anyway
RETURN_OUTSIDE = "'return' outside function"


def compile_source(source: str, name: str = PROGRAM_FILE) -> CodeType:
    """Compile as a file of its own: without `dont_inherit`, this module's `annotations` future would hold there too."""
    return compile(source.removeprefix(BYTE_ORDER_MARK), name, "exec", dont_inherit=True)


def compile_program(source: str) -> CodeType:
    """Compile a program that reads standard input. It may `return` at its top level, as LiveCodeBench allows."""
    try:
        return compile_source(source)
    except SyntaxError as error:
        if error.msg != RETURN_OUTSIDE:
            raise
    return compile_as_function(source)


def compile_as_function(source: str) -> CodeType:
    """The program as the body of a function whose names stay global; star imports are legal only outside it."""
    import ast  # what most programs never need
    import symtable

    bound = [
        symbol.get_name()
        for symbol in symtable.symtable(source, PROGRAM_FILE, "exec").get_symbols()
        if (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()) and not symbol.is_annotated()
    ]
    tree = ast.parse(source, PROGRAM_FILE)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    body = [node for node in tree.body if node not in imports]
    wrapped = ast.parse(
        f"def {MAIN_FUNCTION}():\n    {'global ' + ', '.join(bound) if bound else 'pass'}\n{MAIN_FUNCTION}()\n"
    )
    function = wrapped.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body += body
    wrapped.body[:0] = imports
    return compile(wrapped, PROGRAM_FILE, "exec", dont_inherit=True)
