"""PruneNet: a policy, trained on the weights alone, draws the feed-forward rows that stay.

    alpha = sigmoid((W M^T + b) r)                   W (units, width) a gate; M, b, r learnt, one policy for all blocks
    o     = sigmoid(logit(u) + logit(alpha)),        u uniform in (0, 1), drawn anew each time
    rows  ~ o without replacement                    (1 - sparsity) * units of them
    reward = 1 / KS(singular values of W, of W[rows])
    step on  -reward * gamma^block * sum over rows of log o

AdamW, one step for each block and episode; the policy behind the episode of the largest total reward is used, and
draws the rows to keep. Sengupta et al., "You Only Prune Once", arXiv 2501.15296; github.com/LCS2-IIITD/PruneNet at
0b67c44 (prunenet.py; the best policy as in experiments/trainable_activation_sparsity.py).
"""

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.slicing import feed_forwards, kolmogorov_smirnov, say_width

CARD = Card(
    verbs=("submodel",),
    paper="prunenet",
    family="pruning",
    sources=("abstract", "code"),
    configuration="python -m prunenet --compression_ratio 0.3: 20 episodes, learning rate 0.001",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    models=("abstracts-lm",),
    equal={"parameters": 0.0},
    gap="Theirs: Llama-2-7B, Phi-2 and OPT, zero-shot accuracy after 30 % of the rows are gone, against SliceGPT and "
    "other calibrated methods. SliceGPT is not here: that a policy on weights beats calibrated pruning is narrowed to "
    "whether it beats rows drawn at random, which their code has too. 6 million parameters, perplexity. A pass shows "
    "nothing of accuracy, and minutes on a 7B model are not tested.",
    checks=(
        Check(
            claim="better-than-random-rows",
            says="30 % of the feed-forward rows sliced by the policy leave a better model than random rows do.",
            method=Arm("prunenet", sparsity=0.3),
            baseline=Arm("row-slicing", by="random", sparsity=0.3),
            beside=(Arm("original"),),
        ),
        Check(
            claim="better-than-small-rows-out",
            says="Is it better than taking out the rows of least norm, which looks at weights alone as well?",
            method=Arm("prunenet", sparsity=0.3),
            baseline=Arm("row-slicing", by="norm", sparsity=0.3),
            role="question",
        ),
        Check(
            claim="better-than-descent-on-its-reward",
            says="Is it the policy? Swaps of rows that lower the same KS distance, with as many spectra computed.",
            method=Arm("prunenet", sparsity=0.3),
            baseline=Arm("row-slicing", by="descent", sparsity=0.3),
            beside=(Arm("row-slicing", by="best-random", sparsity=0.3),),
            role="question",
        ),
        Check(
            claim="better-than-calibrated-rows",
            says="Is it better than rows chosen by their activations on 4,096 tokens, the plainest calibrated rule?",
            method=Arm("prunenet", sparsity=0.3),
            baseline=Arm("row-slicing", by="activation", sparsity=0.3),
            role="question",
        ),
    ),
    departs=(
        "the best policy is used, as in experiments/; prunenet.py saves it but prunes with the last one",
        "float32, theirs autocasts to float16 with a scaled loss",
        "their clipping of the gradient comes after it was set to zero, so nothing is clipped; none here",
        "o is kept above 1e-12, or the logarithm of a probability that underflows would be infinite",
        "without text: the regulariser --use_kld, off by default, is left out",
    ),
)

LARGEST = 99_999.0  # the reward where both spectra agree
LEAST = 1e-12


def submodel(
    model: nn.Module, seed: int, *, sparsity: float = 0.3, steps: int = 20, learning_rate: float = 1e-3,
    gamma: float = 0.99,
) -> nn.Module:  # fmt: skip
    """The model without the share `sparsity` of its feed-forward networks' rows; no text is looked at.

    steps: episodes, each a choice of rows and a step for every block. gamma: a later block's reward counts less.
    Raises ValueError for a share outside [0, 1) and a model without gated feed-forward networks.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity}: the share of rows to remove, at least 0 and below 1")
    networks = feed_forwards(model)
    weights = [network.gate.weight.detach().float() for network in networks]
    kept = int((1 - sparsity) * len(weights[0]) + 1e-9)
    generator = torch.Generator().manual_seed(seed)
    policy = train(weights, kept, generator, steps=steps, learning_rate=learning_rate, gamma=gamma)
    with torch.no_grad():
        for network, weight in zip(networks, weights, strict=True):
            network.keep(choose(policy(weight, generator), kept, generator))
    say_width(model, kept)
    return model


class Policy(nn.Module):
    """Scores rows of matrices (units, width)."""

    def __init__(self, width: int, units: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = width**-0.5  # nn.Linear's own start
        self.project = nn.Linear(width, units)
        self.rows = nn.Parameter(torch.rand(units, generator=generator))
        with torch.no_grad():
            for parameter in self.project.parameters():
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)

    def forward(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """weight (units, width) -> relaxed draws (units,) in (0, 1), of Bernoulli(alpha)."""
        u = torch.rand(len(weight), generator=generator).clamp(1e-6, 1 - 1e-6)
        return (self.project(weight) @ self.rows + u.logit()).sigmoid().clamp(min=LEAST)  # logit(alpha) is the score


def choose(keep: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` indices drawn without replacement by keep (units,), in order."""
    return torch.multinomial(keep, count, generator=generator).sort().values


def train(
    weights: list[Tensor], kept: int, generator: torch.Generator, *, steps: int, learning_rate: float, gamma: float
) -> Policy:
    """The policy as it was behind the episode with the largest total reward; untrained for steps=0."""
    units, width = weights[0].shape
    policy = Policy(width, units, generator)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=learning_rate)
    spectra = [torch.linalg.svdvals(weight) for weight in weights]
    best, state = 0.0, {name: value.clone() for name, value in policy.state_dict().items()}
    for _ in range(steps):
        actions, rewards = [], []
        with torch.no_grad():
            for weight, spectrum in zip(weights, spectra, strict=True):
                rows = choose(policy(weight, generator), kept, generator)
                distance = kolmogorov_smirnov(spectrum, torch.linalg.svdvals(weight[rows]))
                actions.append(rows)
                rewards.append(1 / distance if distance else LARGEST)
        for index, (weight, rows) in enumerate(zip(weights, actions, strict=True)):
            with torch.enable_grad():
                loss = -policy(weight, generator)[rows].log().sum() * rewards[index] * gamma**index
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if sum(rewards) > best:
            best, state = sum(rewards), {name: value.clone() for name, value in policy.state_dict().items()}
    policy.load_state_dict(state)
    return policy
