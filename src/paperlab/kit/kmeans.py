"""k-means in few dimensions, sized for weight matrices: hundreds of thousands of points, tens of centroids.

    minimise  sum_i m_i || x_i - c_{a(i)} ||^2_{u_i}      over centroids c and assignments a

Lloyd's iterations from a k-means++ start (Arthur & Vassilvitskii, 2007); u_i, optional, weighs each
coordinate of each point, as the diagonal of a Hessian does for the weights of a layer.
"""

import math

import torch
from torch import Tensor

CHUNK = 1 << 12  # points whose distances are in memory at once: they should stay in cache


def assign(points: Tensor, centroids: Tensor, importance: Tensor | None = None) -> Tensor:
    """Nearest centroid of each point: points (n, d), centroids (k, d), importance (n, d) or None -> (n,) int64."""
    out = torch.empty(len(points), dtype=torch.long, device=points.device)
    half = centroids.square().T / 2  # (d, k)
    for start in range(0, len(points), CHUNK):
        x = points[start : start + CHUNK]
        # ||x - c||^2 less what does not depend on c, halved and with its sign turned
        if importance is None:
            near = torch.addmm(half.sum(0), x, centroids.T, alpha=-1)
        else:
            u = importance[start : start + CHUNK]
            near = torch.addmm(u @ half, u * x, centroids.T, alpha=-1)
        out[start : start + CHUNK] = near.min(dim=1).indices  # twice as fast as argmin
    return out


def update(points: Tensor, assignment: Tensor, centroids: Tensor, importance: Tensor | None = None) -> Tensor:
    """Centroids that are best for the assignment: (weighted) means, float64 sums; an empty one stays."""
    mass = points.new_ones(1).expand_as(points) if importance is None else importance
    total = torch.zeros(centroids.shape, dtype=torch.float64, device=points.device)
    weighed = total.index_add(0, assignment, (mass * points).double())
    total = total.index_add(0, assignment, mass.double())
    return torch.where(total > 0, weighed / total.clamp(min=1e-30), centroids.double()).to(points.dtype)


def start(points: Tensor, count: int, generator: torch.Generator, importance: Tensor | None = None) -> Tensor:
    """k-means++: each next centroid is a point drawn with probability proportional to its squared distance."""
    first = torch.randint(len(points), (1,), generator=generator, device=points.device)
    chosen = [points[first[0]]]
    nearest = torch.full((len(points),), math.inf, dtype=points.dtype, device=points.device)
    for _ in range(count - 1):
        away = (points - chosen[-1]).square()
        away = away.sum(1) if importance is None else (away * importance).sum(1)
        nearest = torch.minimum(nearest, away)
        reach = nearest.double().cumsum(0)
        if reach[-1] <= 0:  # fewer distinct points than centroids
            chosen += [chosen[-1]] * (count - len(chosen))
            break
        at = torch.rand(1, generator=generator, dtype=torch.float64, device=points.device) * reach[-1]
        chosen.append(points[torch.searchsorted(reach, at).clamp(max=len(points) - 1)[0]])
    return torch.stack(chosen)


def kmeans(
    points: Tensor,
    count: int,
    *,
    seed: int,
    importance: Tensor | None = None,
    iterations: int = 20,
    sample: int | None = 32768,
) -> tuple[Tensor, Tensor]:
    """Cluster (n, d) float points; returns centroids (count, d) and assignment (n,) int64.

    importance: (n, d), not negative, how much an error in each coordinate of each point costs. sample: at
    most so many points, drawn at random, fit the centroids (all points are assigned); None takes all.
    A centroid that no point chooses moves to the point that is served worst. The same seed gives the same bits.
    Raises ValueError where there is nothing to cluster.
    """
    if count < 1 or len(points) == 0:
        raise ValueError(f"{count} centroids for {len(points)} points: at least one of each")
    generator = torch.Generator(device=points.device).manual_seed(seed)
    fit, mass = points, importance
    if sample is not None and len(points) > sample:
        chosen = torch.randperm(len(points), generator=generator, device=points.device)[:sample]
        fit, mass = points[chosen], None if importance is None else importance[chosen]
    centroids = start(fit, count, generator, mass)
    before: Tensor | None = None
    for _ in range(iterations):
        assignment = assign(fit, centroids, mass)
        if before is not None and torch.equal(assignment, before):
            break
        before = assignment
        centroids = update(fit, assignment, centroids, mass)
        empty = (torch.bincount(assignment, minlength=count) == 0).nonzero()[:, 0]
        if len(empty):
            away = (fit - centroids[assignment]).square()
            worst = (away if mass is None else away * mass).sum(1).topk(min(len(empty), len(fit))).indices
            centroids[empty[: len(worst)]] = fit[worst]
            before = None
    return centroids, assign(points, centroids, importance)
