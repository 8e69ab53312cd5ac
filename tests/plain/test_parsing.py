"""Many threads read method files at once: none meets the other's half-built tree."""

import ast
from concurrent.futures import ThreadPoolExecutor

from paperlab.core.methods import METHODS
from paperlab.core.parsing import syntax_tree


def test_threads_that_parse_at_once_all_get_their_trees() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted(METHODS.rglob("*.py"))]
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(syntax_tree, sources * 4))
    assert len(trees) == 4 * len(sources)
    assert [ast.dump(tree) for tree in trees[:20]] == [ast.dump(syntax_tree(source)) for source in sources[:20]]
