"""PruneNet: the policy against the authors' form, its loss by hand, and that training earns reward."""

import copy

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.kit.slicing import feed_forwards, kolmogorov_smirnov
from paperlab.methods.pruning import prunenet


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_policy_is_a_relaxed_bernoulli_of_alpha() -> None:
    policy = prunenet.Policy(6, 9, drawn())
    weight = torch.randn(9, 6, generator=drawn(1))
    alpha = (policy.project(weight) @ policy.rows[:, None]).sigmoid()[:, 0]
    u = torch.rand(9, generator=drawn(2))
    wanted = (u.log() - (1 - u).log() + alpha.log() - (1 - alpha).log()).sigmoid()  # SparsityPredictor.py
    torch.testing.assert_close(policy(weight, drawn(2)), wanted)
    rows = prunenet.choose(wanted.detach(), 5, drawn(3))
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_one_episode_by_hand() -> None:
    weights = [torch.randn(12, 4, generator=drawn(i)) for i in (1, 2)]
    found = prunenet.train(weights, 8, drawn(5), steps=1, learning_rate=0.01, gamma=0.5)
    draw = drawn(5)
    policy = prunenet.Policy(4, 12, draw)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.01)
    rows = [prunenet.choose(policy(weight, draw).detach(), 8, draw) for weight in weights]
    for index, weight in enumerate(weights):
        spectra = torch.linalg.svdvals(weight), torch.linalg.svdvals(weight[rows[index]])
        reward = 1 / kolmogorov_smirnov(*spectra)
        loss = -(policy(weight, draw).log() * torch.zeros(12).index_fill(0, rows[index], 1.0)).sum()
        optimiser.zero_grad()
        (loss * reward * 0.5**index).backward()
        optimiser.step()
    for mine, theirs in zip(policy.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_training_lifts_the_chosen_rows_probabilities() -> None:
    weights = [torch.randn(32, 8, generator=drawn(i)) for i in range(3)]
    start, end = (prunenet.train(weights, 20, drawn(7), steps=s, learning_rate=0.01, gamma=0.99) for s in (0, 60))

    def mean(policy: prunenet.Policy) -> float:
        return torch.stack([policy(w, drawn(9)).log().mean() for w in weights]).mean().item()

    assert mean(end) > mean(start)


def test_on_a_model_no_text_is_looked_at(six_blocks: LlamaForCausalLM) -> None:
    made = [prunenet.submodel(copy.deepcopy(six_blocks), seed, sparsity=0.3, steps=2) for seed in (0, 0, 1)]
    assert all(network.gate.out_features == 22 for network in feed_forwards(made[0]))
    first = [feed_forwards(model)[0].gate.weight for model in made]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    with pytest.raises(ValueError, match="sparsity=1"):
        prunenet.submodel(copy.deepcopy(six_blocks), 0, sparsity=1.0)
