"""Small files and short functions: what does not fit in a head does not get reviewed."""

from __future__ import annotations

import ast

from tests.architecture.sources import functions, product_sources, sources_of_tests

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def test_no_file_is_longer_than_the_limit() -> None:
    long = [
        f"{source.path}: {source.num_lines}"
        for source in (*product_sources(), *sources_of_tests())
        if source.num_lines > MAX_FILE_LINES
    ]
    assert long == []


def test_no_function_is_longer_than_the_limit() -> None:
    long = [
        f"{source.path}:{node.lineno} {node.name}: {length}"
        for source in (*product_sources(), *sources_of_tests())
        for node in functions(source)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_ninety_per_cent_of_the_functions_are_at_most_thirty_lines() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for source in product_sources()
        for node in functions(source)
    )
    assert lengths[int(len(lengths) * 0.9)] <= 30


def test_every_module_says_what_it_is() -> None:
    silent = [source.path for source in product_sources() if not ast.get_docstring(source.tree)]
    assert silent == []


def test_every_public_class_and_top_level_function_has_a_docstring() -> None:
    silent = [
        f"{source.path}:{node.lineno} {node.name}"
        for source in product_sources()
        for node in source.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
