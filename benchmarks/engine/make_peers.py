"""Make what the other runtimes run, with their own tools; what exists already is left as it is.

    python -m venv peers
    peers/bin/pip install openvino-genai==2026.4.1.0 nncf==3.4.0 optimum-intel==2.2.0 onnxruntime-genai==0.18.0 \\
        onnx-ir==1.1.0 torch==2.13.0 torchao==0.18.0
    python benchmarks/engine/encoder.py --ids ids.json
    peers/bin/python benchmarks/engine/make_peers.py MODELS --smollm2 FOLDER --minilm FOLDER --ids ids.json

OpenVINO by optimum-intel (weights in 8 bits; all of them in 4, in groups of 64) and NNCF (MiniLM, calibrated on ids),
ONNX Runtime GenAI by its model builder. FOLDER: where `paperlab.assets.models.model_folder` has put each model. torch
must be the CPU's build; a torchvision that does not fit it has to go.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from peers import bert_inputs

WEIGHTS = {"ov-int8": ["int8"], "ov-int4": ["int4", "--sym", "--group-size", "64", "--ratio", "1.0", "--all-layers"]}


def calibrated(folder: Path, ids: list[list[int]], file: Path) -> None:
    """NNCF's post-training quantization of the exported encoder, its defaults for transformers."""
    import nncf
    import openvino

    model = openvino.Core().read_model(folder / "openvino_model.xml")
    names = [i.any_name for i in model.inputs]
    data = nncf.Dataset([bert_inputs(names, np.array([row], np.int64)) for row in ids])
    made = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(ids))
    openvino.save_model(made, file)


def make(out: Path, smollm2: Path, minilm: Path, ids: list[list[int]]) -> None:
    """Make what is not there."""
    folder = Path(sys.executable).parent
    export = [str(folder / "optimum-cli"), "export", "openvino"]

    def run(place: Path, *words: object) -> None:
        if not place.exists():
            subprocess.run([str(word) for word in words], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})

    for name, how in WEIGHTS.items():
        task = ["--task", "text-generation-with-past", "--weight-format"]
        run(out / name, *export, "-m", smollm2, *task, *how, out / name)
    for bits in (8, 4):
        place = out / f"ort-int{bits}"
        options = ["accuracy_level=4", "block_size=64", "is_symmetric=true"]
        run(place, sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", smollm2, "-o", place,
            "-p", f"int{bits}", "-e", "cpu", "-c", out / "cache", "--extra_options", *options)  # fmt: skip
    for name in ("fp32", "int8"):
        task = ["--task", "feature-extraction", "--weight-format", name]
        run(out / f"bert-{name}", *export, "-m", minilm, *task, out / f"bert-{name}")
    if not (out / "bert-nncf.xml").exists():
        calibrated(out / "bert-fp32", ids, out / "bert-nncf.xml")


def main() -> None:
    """Read the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("--smollm2", "--minilm", "--ids"):
        parser.add_argument(name, type=Path, required=True)
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    make(words.out, words.smollm2, words.minilm, json.loads(words.ids.read_text()))


if __name__ == "__main__":
    main()
