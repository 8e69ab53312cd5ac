"""Our Adam on orthogonal matrices against geoopt's, which OSTQuant's authors train with; prints a line for parity.md.

    pip install --no-deps geoopt==0.5.1     in an environment with torch, numpy and scipy
    PYTHONPATH=src:benchmarks python benchmarks/parity/ostquant.py

Both turn the inputs of the layer of benchmarks/parity.py so that no turned weight stands out: they descend on the sum
of fourth powers of W Q; Q starts as the same random rotation, and W has one loud channel.
"""

import parity
import torch
from torch import Tensor

from paperlab.kit.orthogonal import random_rotation
from paperlab.kit.stiefel import RiemannAdam

STEPS, RATE = 100, 0.017


def loss(rotation: Tensor) -> Tensor:
    """Mean fourth power over the squared mean square, of W Q."""
    weight = parity.layer()[0].clone()
    weight[:, 7] *= 20
    turned = weight @ rotation
    return turned.pow(4).mean() / weight.square().mean().square()


def main() -> None:
    """The distance between both after STEPS steps, and what each reached."""
    import geoopt

    start = random_rotation(256, torch.Generator().manual_seed(0))
    mine = start.clone().requires_grad_()
    rider = RiemannAdam(mine)
    peer = geoopt.ManifoldParameter(start.clone(), manifold=geoopt.Stiefel())
    other = geoopt.optim.RiemannianAdam([peer], lr=RATE, stabilize=10)
    for _ in range(STEPS):
        (ours,) = torch.autograd.grad(loss(mine), mine)
        rider.step(ours, RATE)
        other.zero_grad()
        loss(peer).backward()
        other.step()
    apart = float((mine - peer).detach().norm() / (start - peer).detach().norm())
    values = (float(loss(matrix.detach())) for matrix in (start, mine, peer))
    print("start {:.5f}, ours {:.5f}, geoopt's {:.5f}".format(*values), f"apart by {apart:.1e} of the way")


if __name__ == "__main__":
    main()
