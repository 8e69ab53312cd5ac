"""Where the compiled engine lies. The Python face of it is `paperlab.engine`; this package only carries the file."""

from pathlib import Path

LIBRARY = Path(__file__).resolve().parent / "libpaperlab.so"
