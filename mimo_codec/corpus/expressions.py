"""Expressions over the columns of a row, such as "snr_db >= 10 and language == 'en'", by simpleeval."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mimo_codec.common.checks import check_type, needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError

FUNCTIONS = {"abs": abs, "len": len, "lower": str.lower, "max": max, "min": min, "round": round}
ORDERED = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}


def check_expression(expression: object) -> str:
    """Return an expression; MimoError when it is none."""
    text = check_type("expression", expression, str, "text such as 'seconds > 1'")
    with wrap_errors(f"{text!r} is not an expression", SyntaxError, ValueError, RecursionError, MemoryError):
        ast.parse(text.strip(), mode="eval")
    return text


def _unless_missing(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that is not true where a value is missing."""
    return lambda one, other: one is not None and other is not None and compare(one, other)


class Condition:
    """An expression that is true or not for a row."""

    def __init__(self, expression: str, columns: Collection[str]):
        """Parse the expression; MimoError, which lists the columns, when it names one that does not exist."""
        with needs_extra("simpleeval", "corpus"):
            import simpleeval
        self.expression = check_expression(expression).strip()
        nodes = list(ast.walk(ast.parse(self.expression)))
        called = {node.func for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Name):
                known = FUNCTIONS if node in called else columns
                what = "function" if node in called else "column"
                require(node.id in known, f"there is no {what} {node.id}, only {', '.join(known)}")
        self.columns = frozenset(node.id for node in nodes if isinstance(node, ast.Name) and node not in called)
        """That it names."""
        kinds = (simpleeval.InvalidExpression, ArithmeticError, ValueError, AttributeError, LookupError, TypeError)
        self._errors: tuple[type[Exception], ...] = kinds
        compared = {kind: _unless_missing(compare) for kind, compare in ORDERED.items()}
        operators = simpleeval.DEFAULT_OPERATORS | compared
        self._evaluator = simpleeval.EvalWithCompoundTypes(operators=operators, functions=dict(FUNCTIONS))
        self._parsed = self._evaluator.parse(self.expression)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether it is true; it is not where it computes with a value that is missing, or asks which is larger.

        Raises MimoError when it cannot be computed although no value is missing.
        """
        self._evaluator.names = {name: row.get(name) for name in self.columns}
        try:
            return bool(self._evaluator.eval(self.expression, previously_parsed=self._parsed))
        except self._errors as error:
            if isinstance(error, TypeError) and None in self._evaluator.names.values():
                return False
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MimoError(f"{self.expression!r}: {reason}") from None
