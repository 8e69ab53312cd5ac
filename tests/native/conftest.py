"""These tests need the compiled part (pip install ./native, or PAPERLAB_LIBRARY); without it they are not collected."""

import importlib.util

import pytest

if importlib.util.find_spec("numpy") is None:
    missing = True
else:
    from paperlab.engine.native import available

    missing = not available()

collect_ignore_glob = ["test_*.py"] if missing else []


def pytest_report_header() -> str | None:
    return "paperlab-engine is not installed (pip install ./native): tests/native is not collected" if missing else None


@pytest.fixture
def trained(tmp_path):
    """A small model with a tokenizer, and its folder."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from test_models import SMALL, make
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(SMALL["vocab_size"])}, "w0"))
    words.pre_tokenizer = WhitespaceSplit()
    folder = tmp_path / "trained"
    model = make(folder, "llama-wide-heads", intermediate_size=192)
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return model, folder
