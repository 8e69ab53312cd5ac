"""A picture of the tables in README.md: tokens per second over bytes per token, under what memory can give.

    pip install matplotlib
    python benchmarks/engine/roofline.py --read 76e6=50e9 --read 1e9=26e9

--read SIZE=RATE, once for each table: bytes per second that two plain loops read over SIZE bytes (`pl_test_read`).
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PEERS = ("llama.cpp", "OpenVINO", "ONNX Runtime", "torchao", "PyTorch")  # what their rows begin with


def rows(text: str, title: str) -> list[tuple[str, float, float]]:
    """(format, MB per token, tokens per second) of the first table under a heading."""
    table = [line for line in text.split(title, 1)[1].split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [(row[0], float(row[1]), float(row[3])) for row in cells]


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", action="append", required=True, metavar="SIZE=RATE")
    words = parser.parse_args()
    text = (HERE / "README.md").read_text(encoding="utf-8")
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    titles = ("## Language: SmolLM2-135M", "## Language: a Llama of 1.1B")
    for axis, title, pair in zip(axes, titles, words.read, strict=True):
        found = rows(text, title)
        for name, size, speed in found:
            peer = name.startswith(PEERS)
            axis.plot(size, speed, "s" if peer else "o", color="tab:orange" if peer else "tab:blue")
            axis.annotate(name, (size, speed), textcoords="offset points", xytext=(5, 4), fontsize=7)
        low, high = min(size for _, size, _ in found) * 0.9, max(size for _, size, _ in found) * 1.3
        size, rate = (float(part) for part in pair.split("="))
        axis.plot([low, high], [rate / low / 1e6, rate / high / 1e6], "--", color="grey", linewidth=0.8)
        said = f"{rate / 1e9:.0f} GB/s, read over {size / 1e6:.0f} MB"
        axis.annotate(
            said, (low, rate / low / 1e6), textcoords="offset points", xytext=(8, 0), fontsize=7, color="grey"
        )
        axis.set(xscale="log", yscale="log", title=title.partition(": ")[2], xlabel="MB of weights per token",
                 ylabel="tokens per second, 2 threads")  # fmt: skip
    figure.savefig(HERE / "roofline.png", dpi=110)


if __name__ == "__main__":
    main()
