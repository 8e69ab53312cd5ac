"""BitLinear against the layer of its authors' package; prints rows for benchmarks/parity.md.

    PYTHONPATH=src:benchmarks python benchmarks/parity/bitnet_1_58_bottom_up.py FOLDER

FOLDER: a checkout of github.com/schneiderkamplab/bitlinear, 7b66f06. Weights: the layer of benchmarks/parity.py.
"""

import sys

import parity
import torch

from paperlab.methods.quantization.bitnet_1_58_bottom_up import linear, ternary


def main() -> None:
    """Ternary weights for each scale; then the whole layer's outputs and gradients."""
    sys.path.insert(0, sys.argv[1])
    from bitlinear import BitLinear
    from bitlinear.bitlinear import round_clamp, scale

    weight, x, _ = parity.layer()
    for name, measure in (("mean", "AbsMean"), ("median", "AbsMedian"), ("max", "AbsMax")):
        theirs = BitLinear(weight.shape[1], weight.shape[0], weight_measure=measure)
        theirs.weight.data.copy_(weight)
        factor = scale(weight, (-1, 1), theirs.weight_measure, False, theirs.eps)
        codes, beta = ternary(weight, name)
        stored = round_clamp(weight * factor, (-1, 1)) / factor
        row = parity.compare(
            f"ternary weights, scale by {name} |w|", "bitlinear 7b66f06", codes * beta, stored, least=0.999, most=0.001
        )
        print(
            f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {100 * row.same:.1f}% | "
            f"{100 * row.least:.1f}%, {100 * row.most:.1f}% | {'yes' if row.agrees else 'NO'} |"
        )
        ours = linear(weight.shape[1], weight.shape[0], True, scale=name)
        ours.load_state_dict(theirs.state_dict())
        found = []
        for layer in (ours, theirs):
            inputs = x[:64].clone().requires_grad_()
            out = layer(inputs)
            out.square().sum().backward()
            found.append((out.detach(), layer.weight.grad, layer.bias.grad, inputs.grad))
        apart = [float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True)]
        print("  output and gradients of weight, bias, input differ by", *(f"{value:.1e}" for value in apart))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
