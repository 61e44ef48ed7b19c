"""Which modules code names in its imports, found without running it."""

import ast
import sys
from types import CodeType


def imported_by_code(code: CodeType) -> frozenset[str]:
    """The top-level modules that a function's import statements name, in its nested functions too."""
    import dis

    names: set[str] = set()
    level: object = None
    last: object = None
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            # The level was pushed before the list of names. A relative import means the script's own package.
            name = getattr(sys.modules.get("__main__"), "__package__", None) if level else step.argval
            names.add(str(name or "").partition(".")[0])
        elif step.opname != "EXTENDED_ARG":
            level, last = last, step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= imported_by_code(constant)
    return frozenset(names - {""})


def surely_imported(code: CodeType) -> frozenset[str]:
    """The top-level modules that a function imports whenever it is called: before any branch, and in no `try`."""
    import dis

    bytecode = dis.Bytecode(code)
    guarded = [range(entry.start, entry.end) for entry in getattr(bytecode, "exception_entries", ())]
    names: set[str] = set()
    level: object = None
    last: object = None
    for step in bytecode:
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            break
        if step.opname == "IMPORT_NAME" and not level and not any(step.offset in part for part in guarded):
            names.add(str(step.argval).partition(".")[0])
        elif step.opname != "EXTENDED_ARG":
            level, last = last, step.argval
    return frozenset(names)


def imported_by_source(source: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """The top-level modules that a file names in imports, anywhere in it; none if Python cannot parse it.

    And the full names of those that it imports whenever it is imported itself: outside of functions, `if` and `try`.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()  # it travels all the same, and fails there as it would here
    names: set[str] = set()
    for node in ast.walk(tree):
        names.update(_named(node))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function, target = node.func, node.args[0].value
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if called in ("import_module", "__import__") and isinstance(target, str):
                names.add(target)
    tops = {name.partition(".")[0] for name in names}
    return frozenset(tops - {""}), frozenset(name for node in tree.body for name in _named(node))


def _named(node: ast.AST) -> list[str]:
    """The modules that an import statement names, in full; relative ones aside."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        return [node.module]
    return []
