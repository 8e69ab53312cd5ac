"""Take the pictures of docs/screens again: python tests/browser/screens.py http://localhost:8000 docs/screens

Look at them before they are committed. The site: just started, with the bundled papers, one comment, one collection.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PAGES = {
    "home": "/", "search": "/search?q=outliers+in+quantization", "paper": "/papers/easyquant",
    "claims": "/papers/easyquant#claims", "compare": "/compare/quantization", "coverage": "/coverage",
    "about": "/about", "account": "/account", "collection": "/collections/1", "comments": "/papers/easyquant#comments",
    "subscribe": "/subscribe", "submit": "/submit", "sign-in": "/sign-in", "run": "/papers/easyquant/run",
}  # fmt: skip
SIZES = ((1440, 900, "light"), (768, 900, "dark"), (320, 640, "light"))


def main(site: str, folder: Path) -> None:
    """One picture of the first screen of each page, in three widths."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for width, height, scheme in SIZES:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )  # type: ignore[arg-type]
            for name, path in PAGES.items():
                page.goto(site.rstrip("/") + path)
                page.wait_for_timeout(300)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                picture.quantize(48).save(folder / f"{name}-{width}-{scheme}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
