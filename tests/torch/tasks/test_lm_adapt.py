"""The twin of the recovery task: trained on one text, judged on the model's own and on the new one."""

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from paperlab.assets.texts import TextError, load_text, split_documents
from paperlab.kit.compressed import Compressed
from paperlab.lab.drivers.finetune import build
from paperlab.tasks import lm_adapt as task
from paperlab.tasks import lm_recover


def test_training_on_a_new_text_is_learning_and_forgetting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TEST": 16, "VALIDATION": 8, "STEPS": 8}.items():
        monkeypatch.setitem(getattr(lm_recover, name), "quick", value)
    new = tmp_path / "new.txt"
    new.write_text("\n\n".join(split_documents(load_text("catalogue"), "all")))
    setting: Any = task.make(0, "quick", data=str(new))
    assert setting.rates == (3e-4,)
    held_out = " ".join(split_documents(load_text("abstracts"), "held-out"))
    assert setting.tokenizer.decode(setting.test[2, 30:34].tolist()).strip() in held_out
    assert task.describe(setting)["data"]["other"] == "abstracts"
    (before,) = task.score(Compressed(setting.model, {}, 1), setting)
    assert abs(before["kl"]) < 1e-6
    arm = build({"loss": lambda student, labels: F.cross_entropy(student, labels)}, {}, setting=setting, seed=0,
                tuned={"rate": 1e-3, "validation": {}})  # fmt: skip
    (after,) = task.score(arm, setting)
    assert after["new"] < before["new"]
    assert after["own"] > before["own"]
    assert task.totals(arm, setting)["tokens"] == 8 * lm_recover.BATCH * lm_recover.LENGTH


def test_the_model_s_own_text_is_refused() -> None:
    with pytest.raises(TextError, match="knows already"):
        task.make(0, "quick", data="abstracts")
