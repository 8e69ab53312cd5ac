"""Lighthouse on the site's main pages, on both presets.

    npm install --prefix FOLDER lighthouse
    paperlab up --port 8000 --no-token
    python benchmarks/lighthouse.py http://localhost:8000 FOLDER/node_modules/.bin/lighthouse

Prints the table of benchmarks/lighthouse.md; Chromium is that of CHROME_PATH, else the system's.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PAGES = {"home": "/", "search": "/search?q=quantization", "paper": "/papers/easyquant",
         "compare": "/compare/quantization"}  # fmt: skip
SCORES = ("performance", "accessibility", "best-practices", "seo")
FIGURES = {
    "first-contentful-paint": "first paint, s", "largest-contentful-paint": "largest paint, s",
    "total-blocking-time": "blocked, ms", "cumulative-layout-shift": "shift", "total-byte-weight": "kB",
}  # fmt: skip


def measure(lighthouse: str, address: str, preset: str) -> dict[str, Any]:
    """One run's report. preset: mobile (a slow phone, Lighthouse's default) or desktop."""
    command = [lighthouse, address, "--output=json", "--quiet", "--max-wait-for-load=45000",
               "--chrome-flags=--headless=new --no-sandbox --disable-gpu"]  # fmt: skip
    chrome = os.environ.get("CHROME_PATH") or shutil.which("chromium") or shutil.which("google-chrome") or ""
    done = subprocess.run(
        command + (["--preset=desktop"] if preset == "desktop" else []),
        env={**os.environ, "CHROME_PATH": chrome}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"lighthouse on {address}: {done.stderr[-500:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def row(name: str, preset: str, report: dict[str, Any]) -> str:
    """A line of the table."""
    scores = [f"{(report['categories'][key]['score'] or 0) * 100:.0f}" for key in SCORES]
    values = {key: float(report["audits"][key]["numericValue"]) for key in FIGURES}
    scale = {"first-contentful-paint": 1e3, "largest-contentful-paint": 1e3, "total-byte-weight": 1e3}
    figures = [f"{values[key] / scale.get(key, 1):.{0 if key == 'total-blocking-time' else 1}f}" for key in FIGURES]
    figures[list(FIGURES).index("cumulative-layout-shift")] = f"{values['cumulative-layout-shift']:.3f}"
    return f"| {name} | {preset} | {' | '.join([*scores, *figures])} |"


def main(site: str, lighthouse: str, reports: Path | None = None) -> None:
    """Every page on both presets; whole reports into a folder, if one is named."""
    print(f"| page | preset | {' | '.join([*SCORES, *FIGURES.values()])} |")
    print("|---|---|" + "---:|" * (len(SCORES) + len(FIGURES)))
    for name, path in PAGES.items():
        for preset in ("mobile", "desktop"):
            report = measure(lighthouse, site.rstrip("/") + path, preset)
            if reports is not None:
                reports.mkdir(parents=True, exist_ok=True)
                (reports / f"{name}-{preset}.json").write_text(json.dumps(report))
            print(row(name, preset, report), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
