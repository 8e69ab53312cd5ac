"""These tests need the compiled part (pip install ./native, or PAPERLAB_LIBRARY); without it they are not collected."""

import importlib.util

if importlib.util.find_spec("numpy") is None:
    missing = True
else:
    from paperlab.engine.native import available

    missing = not available()

collect_ignore_glob = ["test_*.py"] if missing else []


def pytest_report_header() -> str | None:
    return "paperlab-engine is not installed (pip install ./native): tests/native is not collected" if missing else None
