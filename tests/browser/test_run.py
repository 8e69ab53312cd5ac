"""The whole way on a real `paperlab up`: search, paper, *Run it*, progress, verdict; and back out of it by *Cancel*.

The check is a real one, small: a method in a package of its own, as docs/howto/write_a_method.md has it, on the little
language model that paperlab ships.
"""

# ruff: noqa: F811 (a fixture of another file)

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import Watched
from tests.services.test_up import Up, start  # noqa: F401

from paperlab.core.methods import methods
from paperlab.core.paper import papers

PAPER = next(slug for slug in reversed(papers()) if slug not in {method.card.paper for method in methods().values()})
TITLE = papers()[PAPER].title
METHOD = '''"""Rounding to eight bits: a check that takes seconds."""

from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.quantized import Quantized

CARD = Card(
    family="quantization",
    paper="PAPER",
    checks=(
        Check(
            claim="eight-bits-beat-two", says="Eight bits lose less than two.", task="lm_compress", metric="perplexity",
            expect="lower", margin=0.1, method=Arm("browser-check"), baseline=Arm("round-to-nearest", bits=2),
            gap="None: it stands for a paper's.", models=("abstracts-lm",),
        ),
    ),
)


def quantize(weight: Tensor, *, bits: int = 8) -> Quantized:
    high = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(1, keepdim=True).clamp(min=1e-6) / high).half()
    return Quantized((weight / scale.float()).round().clamp(-high - 1, high).to(int), bits, scale)
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package that brings the method, as an installed one does."""
    room, told = tmp_path / "own" / "own_methods", tmp_path / "own" / "own_methods-0.dist-info"
    (room / "quantization").mkdir(parents=True)
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: own-methods\nVersion: 0\n")
    (told / "entry_points.txt").write_text("[paperlab.methods]\nown = own_methods:folder\n")
    (room / "__init__.py").write_text("from pathlib import Path\n\n\ndef folder():\n    return Path(__file__).parent\n")
    (room / "quantization" / "browser_check.py").write_text(METHOD.replace("PAPER", PAPER))
    return tmp_path / "own"


def watched(chromium: Any, site: str, **options: Any) -> Watched:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
    context.set_default_timeout(30_000)
    return Watched(context, site)


def test_from_a_search_to_a_verdict_and_a_run_taken_back(
    chromium: Any, start: Callable[..., Up], package: Path
) -> None:
    pytest.importorskip("torch")
    paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    up = start(PYTHONPATH=paths, OMP_NUM_THREADS="1", PAPERLAB_TOKEN="")
    seen = watched(chromium, up.address.rstrip("/"))
    page = seen.go(f"/?token={up.token}")
    assert page.url == up.address  # the token is taken out of it again
    page.locator("#find").fill(TITLE)
    page.locator("#find").press("Enter")
    page.locator("[data-card] .name a", has_text=TITLE).first.click()
    page.wait_for_url(f"**/papers/{PAPER}")
    assert page.locator("#claims .outcomes").count() == 0
    page.locator("form.run-form button", has_text="Run it").click()
    page.wait_for_url("**/runs/1")
    live = page.locator("#live")
    state = page.locator("#state strong")
    state.get_by_text("Running", exact=True).wait_for()
    page.locator("#live progress").first.wait_for(timeout=120_000)  # an arm is under way
    assert (
        page.locator("#live tbody th[scope=row]").first.inner_text().startswith(("browser-check", "round-to-nearest"))
    )
    state.get_by_text("Done", exact=True).wait_for(timeout=300_000)
    assert live.locator("tbody tr td", has_text="✓ finished").count() >= 2  # what is finished stays
    live.locator("li", has_text="eight-bits-beat-two on abstracts-lm").wait_for()
    assert live.locator("li strong").inner_text() == "holds"
    page.get_by_role("link", name="the paper", exact=True).click()
    page.wait_for_url(f"**/papers/{PAPER}")
    assert page.locator("#claims .outcomes .badge").inner_text().endswith("holds")
    page.locator("#claims svg.plot a.mark").click()
    page.locator(".run:target").wait_for()
    assert "abstracts-lm" in page.locator(".run:target").inner_text()

    # Once more without scripts: the page asks again by itself, and the form takes the run back.
    plain = watched(chromium, up.address.rstrip("/"), java_script_enabled=False)
    page = plain.go(f"/papers/{PAPER}?token={up.token}")
    page.locator("form.run-form button", has_text="Run it").click()
    page.wait_for_url("**/runs/2")
    page.locator("#state").get_by_text("Running", exact=True).wait_for(timeout=60_000)
    page.get_by_role("button", name="Cancel").click()
    page.locator("#state").get_by_text("Cancelled", exact=True).wait_for(timeout=60_000)
    page.goto(seen.site + "/runs/")
    assert page.locator("tbody tr").evaluate_all("all => all.map(row => row.cells[3].innerText)") == [
        "cancelled", "done",
    ]  # fmt: skip
    page.goto(f"{seen.site}/papers/{PAPER}")
    assert page.locator("#claims .outcomes li").count() == 1  # what was cancelled left no record
    assert seen.wrong == plain.wrong == []
    assert up.end() == 0
    assert "Traceback" not in up.text()
