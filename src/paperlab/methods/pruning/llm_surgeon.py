"""LLM Surgeon: remove rows and columns, or weights, by K-FAC curvature, and let the others answer, in several shots.

    F ~ G (x) A;  cost of a row r    1/2 (W A W^T)_rr / [G^-1]_rr        of a column c   1/2 (W^T G W)_cc / [A^-1]_cc
                  of a weight        1/2 W_rc^2 / ([G^-1]_rr [A^-1]_cc)
    rows R removed      W -= G^-1[:, R] (G^-1[R, R])^-1 W[R]
    columns C removed   W -= W[:, C] (A^-1[C, C])^-1 A^-1[C]
    weights Q removed   W -= G^-1 Z A^-1,  Z in Q alone, such that W is 0 there

What costs least in the whole model goes, up to a share that grows linearly with the shots; costs and curvature are
computed anew in each. updates=False and curvature give the baselines of the paper's own framework: Kron-OBD (kfac),
L-OBD (activations), magnitude (identity). Van der Ouderaa et al., "The LLM Surgeon", arXiv 2312.17244;
github.com/Qualcomm-AI-research/llm-surgeon at 7267344.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.kfac import Kronecker, kronecker_factors
from paperlab.kit.matrix import Dense, Sparse
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    paper="llm-surgeon",
    family="pruning",
    sources=("abstract", "code"),
    configuration="scripts/structured/surgeon.sh, kobd.sh, lobd_single.sh, magnitude.sh, surgeon_indep.sh",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    models=("abstracts-lm",),
    equal={"density": 0.01},
    gap="Theirs: OPT of 125M to 6.7B parameters and Llama-v2, 128 windows of 2,048 tokens, shots of 1.25 % of the "
    "weights. Here: 6 million parameters, 32 windows of 128 tokens, shots of 2.5 %. A curvature from few tokens is "
    "noisy, and a small model may have more to spare or less: a pass shows nothing of the size of the gain on theirs.",
    checks=(
        Check(
            claim="structured-better-than-kron-obd",
            says="30 % of weights gone as rows and columns it beats the same curvature without updates (Kron-OBD), a "
            "baseline of the paper; L-OBD stands beside and magnitude is the trivial one.",
            method=Arm("llm-surgeon", sparsity=0.3),
            baseline=Arm("llm-surgeon", sparsity=0.3, updates=False),
            beside=(
                Arm("llm-surgeon", sparsity=0.3, curvature="activations", updates=False),
                Arm("original"),
            ),
            trivial=Arm("llm-surgeon", sparsity=0.3, curvature="identity", updates=False, shots=1),
        ),
        Check(
            claim="a-fifth-negligible-loss",
            says="20 to 30 % of rows and columns can go with a negligible loss in performance; here 20 %, within 5 %.",
            expect="no worse",
            margin=0.05,
            equal={},
            method=Arm("llm-surgeon", sparsity=0.2, shots=8),
            baseline=Arm("original"),
            trivial=Arm("llm-surgeon", sparsity=0.2, curvature="identity", updates=False, shots=1),
        ),
        Check(
            claim="correlated-better-than-independent-updates",
            says="Is it the correlation? Updates that treat each removed row and column alone (surgeon_indep.sh).",
            method=Arm("llm-surgeon", sparsity=0.3),
            baseline=Arm("llm-surgeon", sparsity=0.3, correlate=1),
            role="question",
        ),
        Check(
            claim="twelve-shots-better-than-one",
            says="Are several shots, each with curvature of its own, better than one?",
            method=Arm("llm-surgeon", sparsity=0.3),
            baseline=Arm("llm-surgeon", sparsity=0.3, shots=1),
            role="question",
        ),
        Check(
            claim="unstructured-better-than-sparsegpt",
            says="Half of the single weights gone, one shot and few correlated at a time, is it better than SparseGPT?",
            method=Arm("llm-surgeon", sparsity=0.5, structure="element", shots=1, correlate=128, damping=0.1),
            baseline=Arm("sparsegpt", sparsity=0.5),
            trivial=Arm("magnitude", sparsity=0.5, scope="global"),
            gap="Theirs has 5 shots and correlates up to 2,000 weights, hours on a CPU even here: the claim of the "
            "paper is not tested by one shot and 128, so this stands as a question.",
            role="question",
        ),
    ),
    departs=(
        "never more weights go than asked for; their threshold takes one more single weight",
        "2.5 % of the weights a shot, theirs 1.25 %, for the method and its baselines alike: Kron-OBD comes to "
        "perplexity 31.7 with 20 % gone in such shots (original 30.6), but above 500 after one shot of 6 %",
        "Kron-OBD is kfac with --obd, as their README says (kobd.sh lacks --obd, so would update), with the method's "
        "own curvature; theirs there has the nearest Kronecker product by 10 power iterations",
        "biases stay, where theirs are one more column",
        "L-OBD sees all calibration text; their code keeps only the last window's activations (copy_ in Activations)",
        "windows come four at a time with the loss of each; theirs one by one, which is the same",
        "costs and updates use inverses in float64; their update goes through eigenvectors, which is the same",
        "2:4 counts whole groups of four as the code does; its mask there leaves out the last column, as if a bias",
        "what is kept is stored as float16; first-order corrections between shots (LoRA) are left out",
        "shots of 6 % were tried first: the baseline broke in the first of them, before any verdict",
    ),
)

Costs = tuple[Tensor, Tensor] | Tensor  # of rows and of columns, or of weights


def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    sparsity: float = 0.3,
    structure: Literal["row-column", "element", "2:4"] = "row-column",
    curvature: Literal["kfac", "activations", "identity"] = "kfac",
    updates: bool = True,
    shots: int = 12,
    correlate: int = 0,
    damping: float = 0.01,
) -> Compressed:
    """The model without the share `sparsity` of its blocks' weights, never more for rows and columns.

    updates: what stays answers for what goes; needs curvature="kfac". correlate: rows, columns or weights that answer
    together, 0 for all; weights are grouped by whole rows. damping: share of the mean diagonal added to G and A;
    for weights to G, with 0.01 for A. Raises ValueError for settings that do not go together.
    """
    if updates and curvature != "kfac":
        raise ValueError(f"curvature={curvature} has no updates: set updates=false, or take curvature=kfac")
    if not 0 <= sparsity < 1 or shots < 1 or (structure == "2:4" and sparsity > 0.5):
        raise ValueError(f"sparsity={sparsity}, shots={shots}: a share below 1 (2:4: at most 0.5) in 1 shot or more")
    damp_a = damping if structure == "row-column" else 0.01
    total = count_weights(model)
    layers = block_linears(model)
    work = {name: layer.weight.detach().float().clone() for name, layer in layers.items()}
    for shot in range(1, shots + 1):
        if curvature == "identity":
            known = {name: Kronecker(torch.eye(w.shape[1]), torch.eye(w.shape[0])) for name, w in work.items()}
        else:
            known = kronecker_factors(model, calibration, gradients=curvature == "kfac")
        parts = {name: Layer(work[name], known[name], damping, damp_a) for name in layers}
        costs = {name: part.costs(structure, curvature, updates) for name, part in parts.items()}
        edge = threshold(costs, sparsity * shot / shots, structure)
        for name, part in parts.items():
            part.remove(costs[name], edge, structure, updates, correlate)
            with torch.no_grad():
                layers[name].weight.copy_(part.weight)
    stored = {}
    for name, layer in layers.items():
        stored[name] = Sparse(work[name] != 0, Dense(work[name].half()))
        with torch.no_grad():
            layer.weight.copy_(stored[name].dense())
    return Compressed(model, stored, total)


class Layer:
    """A weight (out, in) that is changed in place, its curvature, and which of its rows and columns are alive.

    A row or column is dead where all its weights are 0, or where no token ever reaches it.
    """

    def __init__(self, weight: Tensor, known: Kronecker, damp_g: float, damp_a: float) -> None:
        self.weight = weight
        gradients = known.gradients if known.gradients is not None else torch.eye(len(weight))
        self.rows = weight.any(1) & (gradients.diagonal() != 0)
        self.columns = weight.any(0) & (known.inputs.diagonal() != 0)
        self.g = gradients[self.rows][:, self.rows].double()
        self.a = known.inputs[self.columns][:, self.columns].double()
        self.damp_g, self.damp_a = damp_g, damp_a
        self.weight[~self.rows] = 0
        self.weight[:, ~self.columns] = 0
        self.g_inverse = self.a_inverse = torch.empty(0)

    def live(self) -> Tensor:
        """The weights of live rows and columns, float64."""
        return self.weight[self.rows][:, self.columns].double()

    def costs(self, structure: str, curvature: str, updates: bool) -> Costs:
        """Estimated loss of each removal, float64, in the full shape; 0 for what is dead."""
        w = self.live()
        if updates:
            self.g_inverse, self.a_inverse = inverse(self.g, self.damp_g), inverse(self.a, self.damp_a)
            g, a = 1 / self.g_inverse.diagonal(), 1 / self.a_inverse.diagonal()
        else:
            g, a = self.g.diagonal(), self.a.diagonal()
        full = self.weight.new_zeros(self.weight.shape, dtype=torch.float64)
        if structure != "row-column":
            full[self.rows[:, None] & self.columns] = (0.5 * w.square() * torch.outer(g, a)).flatten()
            return full
        if curvature == "identity":
            row, column = w.norm(dim=1), w.norm(dim=0)
        elif curvature == "activations":
            each = 0.5 * w.square() * a
            row, column = each.sum(1), each.sum(0)
        else:
            row, column = 0.5 * ((w @ self.a) * w).sum(1) * g, 0.5 * ((self.g @ w) * w).sum(0) * a
        rows, columns = full[:, 0].clone(), full[0].clone()
        rows[self.rows], columns[self.columns] = row, column
        return rows, columns

    def remove(self, costs: Costs, edge: float, structure: str, updates: bool, correlate: int) -> None:
        """Remove what costs `edge` or less, after the others have answered for it."""
        if isinstance(costs, tuple):
            rows, columns = (cost <= edge for cost in costs)
            gone = rows[:, None] | columns
            change = self._rows_and_columns(rows[self.rows], columns[self.columns], correlate) if updates else 0
        else:
            gone = costs <= edge
            if structure == "2:4":
                groups = costs.view(len(costs), -1, 4)
                least = groups.argsort(dim=-1, stable=True).argsort(dim=-1) < 2
                cheap = groups.sort(-1).values[..., :2].sum(-1, keepdim=True) <= edge
                gone = (least & cheap).view(costs.shape)
            change = self._weights(gone[self.rows][:, self.columns], correlate or 2000) if updates else 0
        live = self.rows[:, None] & self.columns
        self.weight[live] = (self.live() + change).float().flatten()
        self.weight[gone] = 0

    def _rows_and_columns(self, rows: Tensor, columns: Tensor, correlate: int) -> Tensor:
        w = self.live()
        change = torch.zeros_like(w)
        for r in _split(rows, correlate):
            inside = self.g_inverse[r][:, r]
            change -= self.g_inverse[:, r] @ torch.linalg.solve(inside, w[r])
        for c in _split(columns, correlate):
            inside = self.a_inverse[c][:, c]
            change -= torch.linalg.solve(inside, w[:, c].T).T @ self.a_inverse[c]
        return change

    def _weights(self, gone: Tensor, correlate: int) -> Tensor:
        """Groups of whole rows, at most `correlate` weights each unless one row has more; each sees the updates of
        those before it."""
        w = self.live()
        change = torch.zeros_like(w)
        start = 0
        counts = gone.sum(1).tolist()
        while start < len(w):
            stop, inside = start + 1, counts[start]
            while stop < len(w) and inside + counts[stop] <= correlate:
                inside += counts[stop]
                stop += 1
            if inside:
                r, c = gone[start:stop].nonzero(as_tuple=True)
                within = self.g_inverse[start:stop, start:stop][r][:, r] * self.a_inverse[c][:, c]
                answer = torch.zeros(stop - start, w.shape[1], dtype=w.dtype)
                answer[r, c] = torch.linalg.solve(within, (w + change)[start:stop][r, c])
                change -= self.g_inverse[:, start:stop] @ (answer @ self.a_inverse)
            start = stop
        return change


def threshold(costs: dict[str, Costs], sparsity: float, structure: str) -> float:
    """The cost up to which removals stay within the share `sparsity` of all weights; -1 where nothing may go."""
    steps, sizes, total = [], [], 0
    for cost in costs.values():
        if isinstance(cost, tuple):
            each, order = torch.cat(cost).sort()
            is_row = (order < len(cost[0])).double().cumsum(0)
            is_column = torch.arange(1, len(each) + 1) - is_row
            gone = is_row * len(cost[1]) + is_column * len(cost[0]) - is_row * is_column
            total += len(cost[0]) * len(cost[1])
            sizes.append(gone.diff(prepend=gone.new_zeros(1)))
        elif structure == "2:4":
            each = cost.view(-1, 4).sort(1).values[:, :2].sum(1)
            total += cost.numel()
            sizes.append(torch.full_like(each, 2.0))
        else:
            each = cost.flatten()
            total += cost.numel()
            sizes.append(torch.ones_like(each))
        steps.append(each)
    every, order = torch.cat(steps).sort(stable=True)
    within = (torch.cat(sizes)[order].cumsum(0) <= sparsity * total + 1e-6).sum()
    return float(every[within - 1]) if within else -1.0


def inverse(matrix: Tensor, damping: float) -> Tensor:
    """(matrix + damping * mean diagonal)^-1, float64; more damping, ten times at a time, where it is singular."""
    mean = matrix.diagonal().mean()
    for tries in range(6):
        damped = matrix + torch.eye(len(matrix), dtype=matrix.dtype) * (mean * damping * 10**tries)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.cholesky_inverse(lower)
    raise ValueError(f"the curvature is not positive definite, even with damping={damping * 1e5:g}; raise `damping`")


def _split(chosen: Tensor, correlate: int) -> list[Tensor]:
    indices = chosen.nonzero().flatten()
    return list(indices.split(correlate or max(len(indices), 1))) if len(indices) else []
