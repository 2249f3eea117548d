"""Expressions over the columns of a row, such as "snr_db >= 10 and language == 'en'", by simpleeval."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from typing import Any

from mimo_codec.common.checks import check_type, needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError

FUNCTIONS = {"abs": abs, "len": len, "lower": str.lower, "max": max, "min": min, "round": round}


def check_expression(expression: object) -> str:
    """Return an expression; MimoError when it is none."""
    text = check_type("expression", expression, str, "text such as 'seconds > 1'")
    with wrap_errors(f"{text!r} is not an expression", SyntaxError, ValueError, RecursionError, MemoryError):
        ast.parse(text.strip(), mode="eval")
    return text


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
        self._errors = (simpleeval.InvalidExpression, ArithmeticError, ValueError, AttributeError)
        self._evaluator = simpleeval.EvalWithCompoundTypes(functions=FUNCTIONS)
        self._parsed = self._evaluator.parse(self.expression)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether it is true; it is not where a value that is missing is compared."""
        self._evaluator.names = row
        try:
            return bool(self._evaluator.eval(self.expression, previously_parsed=self._parsed))
        except TypeError:
            return False
        except self._errors as error:
            raise MimoError(f"{self.expression!r}: {str(error).splitlines()[0]}") from None
