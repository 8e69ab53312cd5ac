"""Second-order facts about a loss: Hessian-vector products, the top eigenvalue, traces per parameter.

    H v   = grad( grad(L)^T v )                                     Pearlmutter's trick, never forming H
    top   : v <- H v / ||H v||,  lambda = v^T H v                   power iteration
    tr H_ll = E[ z_l^T (H z)_l ],  z = +-1 at random                Hutchinson, all parameters in one product

    tr G_ll = N E[ ||grad_l L(labels drawn from the model)||^2 ]             one gradient a probe, no second derivative

For independent z the cross terms z_l^T H_lm z_m have mean zero, so one product serves every parameter. G is the
Gauss-Newton matrix of cross entropy over N tokens: labels drawn at every token are independent with mean gradient
zero, so the squared norm of the sum is, on average, the sum of squared norms.
The first three as in Yao et al., PyHessian (arXiv 1912.07145), sections 3.1-3.2.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Product = Callable[[list[Tensor]], list[Tensor]]


def hessian(objective: Callable[[], Tensor], parameters: list[Tensor]) -> Product:
    """A function v -> H v on lists of tensors shaped like `parameters`, at their present values.

    objective: computes the scalar loss; called once. The parameters must require gradients.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        gradients = torch.autograd.grad(objective(), parameters, create_graph=True, allow_unused=True)
    if unused := sum(gradient is None for gradient in gradients):
        raise ValueError(f"no calibration token reached {unused} of the {len(parameters)} matrices: use more text")

    def product(vectors: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(gradients, parameters, grad_outputs=vectors, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if h is None else h for h, p in zip(found, parameters, strict=True)]

    return product


def top_eigenvalue(
    product: Product, like: list[Tensor], *, steps: int = 20, tolerance: float = 1e-2, generator: torch.Generator
) -> float:
    """The eigenvalue of largest magnitude, with its sign, by power iteration from a random start.

    Stops when two estimates in a row differ by less than `tolerance` (relative), or after `steps` products.
    """
    vectors = _unit([torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in like])
    estimate = 0.0
    for _ in range(steps):
        image = product(vectors)
        before, estimate = estimate, _dot(vectors, image)
        if _dot(image, image) == 0 or abs(estimate - before) <= tolerance * abs(estimate):
            break
        vectors = _unit(image)
    return estimate


def traces(product: Product, like: list[Tensor], *, probes: int, generator: torch.Generator) -> list[float]:
    """Hutchinson's estimate of the trace of each parameter's diagonal block of H, from `probes` products."""
    if probes < 1:
        raise ValueError(f"probes={probes}: at least 1")
    sums = [0.0] * len(like)
    for _ in range(probes):
        signs = [torch.randint(2, p.shape, generator=generator).to(p.dtype) * 2 - 1 for p in like]
        for i, (z, image) in enumerate(zip(signs, product(signs), strict=True)):
            sums[i] += float((z * image).sum(dtype=torch.float64))
    return [total / probes for total in sums]


def gauss_newton_traces(
    outputs: Callable[[], Tensor], like: list[Tensor], *, labels: bool, probes: int, generator: torch.Generator
) -> list[float]:
    """Trace of each parameter's diagonal block of the Gauss-Newton matrix of a loss on outputs (n, width).

    labels: True for mean cross entropy over n rows of logits; False for the mean over n rows of the squared
    distance to a constant. outputs is called once.
    """
    if probes < 1:
        raise ValueError(f"probes={probes}: at least 1")
    rows = outputs()
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    count = len(rows)
    sums = [0.0] * len(like)
    for probe in range(probes):
        if labels:
            drawn = torch.multinomial(rows.detach().softmax(-1), 1, generator=generator).flatten()
            value, factor = F.cross_entropy(rows, drawn, reduction="sum"), 1 / count
        else:
            noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
            value, factor = (rows * noise).sum(), 2 / count
        slopes = torch.autograd.grad(
            value, like, retain_graph=probe + 1 < probes, allow_unused=True, materialize_grads=True
        )
        for i, slope in enumerate(slopes):
            sums[i] += factor * slope.square().sum(dtype=torch.float64).item()
    return [total / probes for total in sums]


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)))


def _unit(vectors: list[Tensor]) -> list[Tensor]:
    norm = _dot(vectors, vectors) ** 0.5
    return [v / norm for v in vectors]
