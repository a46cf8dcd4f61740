"""Small wrong changes of a Python module, one at a time."""

import ast
import hashlib
from dataclasses import dataclass
from typing import Any

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# Arguments that change nothing on a CPU where the code is right.
_NO_EFFECT = ("device", "encoding", "strict")


@dataclass(frozen=True)
class Change:
    """A wrong change of a module.

    Attributes:
        key: Identifies the change, also when other lines of the module change.
        line: Number of the changed line.
        text: The changed expression before and after.
    """

    key: str
    line: int
    text: str


class _Mutator(ast.NodeTransformer):
    """Visits a module, lists all changes, and makes the one with a given number, if any."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        self.changes: list[tuple[ast.AST, str]] = []  # changed node, and its text
        self.scope: list[str] = []

    def _offer(self, node: ast.AST, changed: Any) -> Any:
        """Returns the changed node if its turn has come."""
        scope = ".".join(self.scope)
        self.changes.append((node, f"{scope}: {ast.unparse(node)} -> {ast.unparse(changed)}"))
        if self.number != len(self.changes) - 1:
            return node
        return ast.copy_location(changed, node)

    def _scoped(self, node: Any) -> Any:
        self.scope.append(node.name)
        # Without decorators and annotations
        if isinstance(node, ast.FunctionDef):
            node.args.defaults = [self.visit(default) for default in node.args.defaults]
            node.args.kw_defaults = [d and self.visit(d) for d in node.args.kw_defaults]
        if not any(ast.unparse(base).startswith("Protocol") for base in getattr(node, "bases", [])):
            node.body = [self.visit(statement) for statement in node.body]
        self.scope.pop()
        return node

    visit_FunctionDef = visit_ClassDef = _scoped  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.value = node.value and self.visit(node.value)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant):  # a docstring
            return node
        self.generic_visit(node)
        return self._offer(node, ast.Pass()) if isinstance(node.value, ast.Call) else node

    def visit_Raise(self, node: ast.Raise) -> Any:
        return self._offer(node, ast.Pass())  # its message stays as it is

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        return node

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        return self._negated(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self._negated(node)

    def _negated(self, node: Any) -> Any:
        self.generic_visit(node)
        node.test = self._offer(node.test, ast.UnaryOp(ast.Not(), node.test))
        return node

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        other = _BINARY.get(type(node.op))
        return self._offer(node, ast.BinOp(node.left, other(), node.right)) if other else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        other = _BINARY.get(type(node.op))
        return self._offer(node, ast.AugAssign(node.target, other(), node.value)) if other else node

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        for place, operator in enumerate(node.ops):
            operators = list(node.ops)
            operators[place] = _COMPARISONS[type(operator)]()
            changed = self._offer(node, ast.Compare(node.left, operators, node.comparators))
            if changed is not node:
                return changed
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self._offer(node, ast.BoolOp(other, node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        return self._offer(node, node.operand)

    def visit_Constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, bool):
            return self._offer(node, ast.Constant(not node.value))
        if isinstance(node.value, int):
            return self._offer(node, ast.Constant(node.value + 1))
        if isinstance(node.value, float):
            return self._offer(node, ast.Constant(2 * node.value or 1.0))
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        for argument in node.keywords:
            if argument.arg not in (None, *_NO_EFFECT):
                others = [other for other in node.keywords if other is not argument]
                changed = self._offer(node, ast.Call(node.func, node.args, others))
                if changed is not node:
                    return changed
        return node

    def visit_Break(self, node: ast.Break) -> Any:
        return self._offer(node, ast.Continue())

    def visit_Continue(self, node: ast.Continue) -> Any:
        return self._offer(node, ast.Break())


def list_changes(source: str) -> list[Change]:
    """Lists all changes that can be made to a module.

    >>> [change.text for change in list_changes("a = b + 1")]
    [': 1 -> 2', ': b + 1 -> b - 1']
    """
    mutator = _Mutator(None)
    mutator.visit(ast.parse(source))
    lines = source.splitlines()
    changes = []
    for node, text in mutator.changes:
        line = int(getattr(node, "lineno", 1))
        digest = hashlib.sha256(f"{lines[line - 1].strip()} {text}".encode())
        changes.append(Change(digest.hexdigest()[:12], line, text))
    return changes


def changed(source: str, number: int) -> str:
    """Makes one change.

    >>> changed("a = b + 1", 1)
    'a = b - 1'

    Args:
        source: Text of the module.
        number: Number of the change in `list_changes`.

    Returns:
        Text of the changed module.
    """
    tree = _Mutator(number).visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(tree))
