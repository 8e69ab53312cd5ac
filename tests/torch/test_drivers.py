"""Every verb of every driver, from its file to a result: read, built on a tiny setting, used, its printed lines run.

Verbs that no paper's method has yet are brought by sample files, two for each: one asks for everything that its
driver supplies, one for less, in another order, or as a class. A verb without samples fails here.
"""

import copy
import importlib
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import objective_settings
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.core import methods as registry
from paperlab.core.acts import acts
from paperlab.core.card import Arm
from paperlab.core.methods import METHODS, Method, act_of, find_method, methods, snippet, verb_of
from paperlab.kit.embedding import Labelled, Ladder, Pairs
from paperlab.kit.networks import decoder
from paperlab.kit.searching import Space
from paperlab.kit.switching import place
from paperlab.kit.training import PARTS, Split
from paperlab.lab.arms import functions_of

HEAD = '''"""A sample of a verb."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.matrix import Dense, Factors, Matrix, Sparse
from paperlab.kit.quantized import Quantized
from paperlab.kit.grid import min_max, round_to_grid

CARD = Card(family="samples")


'''

SAMPLES: dict[tuple[str, str], tuple[str, str]] = {
    ("compress", "quantize"): (
        '''
def quantize(weight: Tensor, name: str, seed: int, error: Tensor, hessian: Tensor, input_norm: Tensor,
             input_absmean: Tensor, input_absmax: Tensor, input_min: Tensor, input_max: Tensor, inputs: Tensor,
             *, bits: int = 4) -> Quantized:
    """Rounded, whatever it asked for."""
    assert hessian.shape == (weight.shape[1],) * 2 and input_norm.shape == weight.shape[1:]
    return round_to_grid(weight, *min_max(weight, bits=bits), bits=bits)
''',
        '''
def quantize(weight: Tensor) -> Matrix:
    """Half of it."""
    return Dense(weight / 2)
''',
    ),
    ("compress", "keep"): (
        '''
def keep(weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5) -> Tensor:
    """The larger ones."""
    score = weight.abs() * input_norm
    return score >= score.flatten().kthvalue(int(sparsity * score.numel())).values
''',
        '''
def keep(name: str, weight: Tensor) -> Sparse:
    """Every other column."""
    mask = torch.arange(weight.shape[1]).expand_as(weight) % 2 == 0
    return Sparse(mask, Dense(weight))
''',
    ),
    ("compress", "factor"): (
        '''
def factor(weight: Tensor, *, rank: int = 2) -> Factors:
    """In its place."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return Factors(u[:, :rank] * s[:rank], v[:rank])
''',
        '''
def factor(error: Tensor) -> Factors:
    """Added."""
    return Factors(error[:, :1] * 0, error[:1])
''',
    ),
    ("compress", "transform"): (
        '''
def transform(model: nn.Module, calibration: list, teacher: nn.Module, seed: int) -> Compressed:
    """Another norm."""
    assert calibration and teacher is not model
    return Compressed(model, {}, count_weights(teacher))
''',
        '''
def transform(model: nn.Module) -> Compressed:
    """As it was."""
    return Compressed(model, {}, count_weights(model))
''',
    ),
    ("compress", "submodel"): (
        '''
def submodel(model: nn.Module, calibration: list, seed: int, *, layers: int = 1) -> nn.Module:
    """Without its last blocks."""
    del model.model.layers[layers:]
    return model
''',
        '''
def submodel(model: nn.Module) -> nn.Module:
    """Without its first block."""
    del model.model.layers[0]
    return model
''',
    ),
    ("train", "linear"): (
        '''
class Linear(nn.Linear):
    """Half the step."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, share: float = 0.5) -> None:
        super().__init__(in_features, out_features, bias)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return self.share * super().forward(x)
''',
        '''
def linear(out_features: int, in_features: int) -> nn.Module:
    """Never a bias."""
    return nn.Linear(in_features, out_features, bias=False)
''',
    ),
    ("train", "norm"): (
        '''
def norm(width: int, *, eps: float = 1e-5) -> nn.Module:
    """Layer norm."""
    return nn.LayerNorm(width, eps)
''',
        '''
class Norm(nn.Module):
    """None."""

    def forward(self, x: Tensor) -> Tensor:
        return x
''',
    ),
    ("train", "activation"): (
        '''
def activation(*, slope: float = 0.1) -> nn.Module:
    """Leaky."""
    return nn.LeakyReLU(slope)
''',
        '''
class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


def activation() -> nn.Module:
    """Squared."""
    return Squared()
''',
    ),
    ("train", "attention"): (
        '''
class Attention(nn.Module):
    """The mean of the past."""

    def __init__(self, width: int, heads: int, *, share: float = 1.0) -> None:
        super().__init__()
        self.out, self.share = nn.Linear(width, width), share

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.arange(1, x.shape[1] + 1)[:, None]
        return self.share * self.out(x.cumsum(1) / counts)
''',
        '''
class Attention(nn.Module):
    """Nothing is mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)
''',
    ),
    ("train", "feed_forward"): (
        '''
def feed_forward(width: int, inner: int, *, dropout: float = 0.1) -> nn.Module:
    """Plain."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))
''',
        '''
class FeedForward(nn.Linear):
    """One matrix."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
''',
    ),
    ("train", "block"): (
        '''
class Block(nn.Module):
    """A gated mean of the past."""

    def __init__(self, width: int, heads: int, inner: int, *, share: float = 0.5) -> None:
        super().__init__()
        self.up, self.down, self.share = nn.Linear(width, inner), nn.Linear(inner, width), share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * self.down(self.up(x).relu())
''',
        '''
def block(inner: int, width: int) -> nn.Module:
    """Another order."""
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
''',
    ),
    ("train", "network"): (
        '''
def network(vocabulary: int, width: int, heads: int, layers: int, length: int, *, dropout: float = 0.0) -> nn.Module:
    """Bigrams."""
    return nn.Sequential(nn.Embedding(vocabulary, width), nn.Dropout(dropout), nn.Linear(width, vocabulary))
''',
        '''
class Network(nn.Embedding):
    """A table of bigrams."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary, vocabulary)
''',
    ),
    ("train", "loss"): (
        '''
def loss(logits: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Hinge."""
    return F.multi_margin_loss(logits, labels, margin=margin)
''',
        '''
def loss(labels: Tensor, logits: Tensor) -> Tensor:
    """Another order."""
    return F.cross_entropy(logits, labels)
''',
    ),
    ("train", "rate"): (
        '''
def rate(step: int, steps: int, *, warmup: float = 0.1) -> float:
    """A trapezoid."""
    return min(1.0, (step + 1) / max(warmup * steps, 1))
''',
        '''
def rate(steps: int, step: int) -> float:
    """A line."""
    return 1 - step / steps
''',
    ),
    ("train", "init"): (
        '''
def init(network: nn.Module, *, scale: float = 0.5) -> None:
    """Smaller."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
''',
        '''
def init(network: nn.Module) -> None:
    """Biases at one."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.ones_(parameter)
''',
    ),
    ("train", "optimizer"): (
        '''
def optimizer(parameters, learning_rate: float, *, momentum: float = 0.9) -> torch.optim.Optimizer:
    """With momentum."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
''',
        '''
def optimizer(learning_rate: float, parameters) -> torch.optim.Optimizer:
    """Another order."""
    return torch.optim.RMSprop(parameters, lr=learning_rate)
''',
    ),
    ("finetune", "loss"): (
        '''
def loss(student: Tensor, teacher: Tensor, labels: Tensor, student_hidden: Tensor, teacher_hidden: Tensor,
         mask: Tensor, share: float, *, temperature: float = 2.0) -> Tensor:
    """Distillation."""
    target = (teacher / temperature).log_softmax(-1)
    return F.kl_div((student / temperature).log_softmax(-1), target, log_target=True, reduction="batchmean")
''',
        '''
def loss(labels: Tensor, student: Tensor) -> Tensor:
    """No teacher."""
    return F.cross_entropy(student, labels)
''',
    ),
    ("finetune", "adapter"): (
        '''
class LowRank(nn.Module):
    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


def adapter(linear: nn.Linear, *, rank: int = 2) -> nn.Module:
    """Low rank."""
    return LowRank(linear, rank)
''',
        '''
class Adapter(nn.Module):
    """A shift."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.shift = linear, nn.Parameter(torch.zeros(linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.shift
''',
    ),
    ("finetune", "recipe"): (
        '''
def recipe(model: nn.Module, setting, seed: int, rate: float, *, share: float = 0.5) -> nn.Module:
    """The output layer, for a share of the steps."""
    optimizer = torch.optim.SGD(model.lm_head.parameters(), lr=rate)
    batches = setting.batches(seed)
    for _ in range(max(int(share * setting.steps), 1)):
        inputs, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
    return model
''',
        '''
def recipe(model: nn.Module) -> nn.Module:
    """Nothing but the biggest change."""
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    return model
''',
    ),
    ("objective", "objective"): (
        '''
def objective(model: nn.Module, setting, *, weight: float = 0.5) -> nn.Module:
    """With a bias of its own on the logits, drawn to zero, and dropped."""
    assert setting.steps == 2
    return Biased(model, weight)


class Biased(nn.Module):
    def __init__(self, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.model, self.weight, self.bias = model, weight, nn.Parameter(torch.randn(3))

    def forward(self, inputs, labels: Tensor, share: float) -> Tensor:
        assert 0 <= share < 1
        return F.cross_entropy(self.model(**inputs) + self.bias, labels) + self.weight * self.bias.square().sum()
''',
        '''
class Objective(nn.Module):
    """Cross-entropy, leaving a network that says the opposite."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs, labels: Tensor, share: float) -> Tensor:
        return F.cross_entropy(self.model(**inputs), labels)

    def result(self) -> nn.Module:
        with torch.no_grad():
            self.model.classifier.weight.neg_()
        return self.model
''',
    ),
    ("search", "architecture"): (
        '''
def architecture(space, evaluate, budget: int, seed: int, *, factor: float = 0.5) -> tuple[float, ...]:
    """Narrow layers, one of them whole, by the seed."""
    choices = [tuple(1.0 if n == seed % len(space.widths) else factor for n in range(len(space.widths)))]
    choices += [space.whole] * (budget - 1)
    return max(choices, key=evaluate)
''',
        '''
def architecture(evaluate, space) -> tuple[float, ...]:
    """The whole."""
    evaluate(space.whole)
    return space.whole
''',
    ),
    ("merge", "merge"): (
        '''
def merge(base, models, seed: int, *, noise: float = 0.1) -> Iterator[tuple[str, Tensor]]:
    """The base with noise as large as the models' changes."""
    for name in base:
        spread = torch.stack([model[name].float() - base[name].float() for model in models]).std()
        yield name, base[name].float() + noise * spread * torch.randn(base[name].shape)
''',
        '''
def merge(models) -> Iterator[tuple[str, Tensor]]:
    """The first."""
    yield from models[0].items()
''',
    ),
    ("merge", "choose"): (
        '''
def choose(base, models, seed: int, validate, distance, *, share: float = 0.5) -> Iterator[tuple[str, Tensor]]:
    """The model that is best on held-out data, or the first one, and something of the base."""
    score = validate or (lambda model: 0.0) if distance is None else (lambda model: -distance(model))
    for name, tensor in max(models, key=score).items():
        yield name, share * tensor.float() + (1 - share) * base[name].float()
''',
        '''
def choose(models, validate) -> Iterator[tuple[str, Tensor]]:
    """The last."""
    yield from models[-1].items()
''',
    ),
    ("decode", "step"): (
        '''
def step(logits: Tensor, ids: Tensor, *, penalty: float = 1e9) -> Tensor:
    """Never a token twice."""
    return logits - penalty * F.one_hot(ids, logits.shape[-1]).amax(1)
''',
        '''
def step(logits: Tensor) -> Tensor:
    """The most likely one."""
    return torch.where(logits == logits.amax(-1, keepdim=True), 0.0, -torch.inf)
''',
    ),
    ("decode", "generate"): (
        '''
def generate(model: nn.Module, ids: Tensor, length: int, seed: int, *, temperature: float = 1.0) -> Tensor:
    """Drawn."""
    for _ in range(length):
        odds = (model(input_ids=ids).logits[:, -1] / temperature).softmax(-1)
        ids = torch.cat((ids, torch.multinomial(odds, 1)), 1)
    return ids
''',
        '''
def generate(length: int, ids: Tensor, model: nn.Module) -> Tensor:
    """The last token, again and again."""
    return torch.cat((ids, ids[:, -1:].expand(-1, length)), 1)
''',
    ),
    ("switch", "switch"): (
        '''
def switch(entropy: Tensor, large: Tensor, ahead: Callable[[], Tensor], seed: int, *, threshold: float = 1.0) -> Tensor:
    """After a high entropy, unless the next one is above 8 bits; every second token by the seed."""
    if large.shape[1] % 2 == seed % 2:
        return torch.ones(len(large), dtype=torch.bool)
    return (entropy[:, -1:].mean(1) > threshold) & (ahead()[:, -1] <= 8)
''',
        '''
def switch(large: Tensor) -> Tensor:
    """The small one alone."""
    return torch.zeros(len(large), dtype=torch.bool)
''',
    ),
    ("embed", "loss"): (
        '''
def loss(queries: Tensor, documents: Tensor, query_layers: Tensor, document_layers: Tensor, *, share: float = 0.5
         ) -> Tensor:
    """The distance at the last layer and a share of that at the first."""
    assert torch.equal(queries, query_layers[-1])
    return F.mse_loss(queries, documents) + share * F.mse_loss(query_layers[0], document_layers[0])
''',
        '''
def loss(documents: Tensor, queries: Tensor) -> Tensor:
    """The angle."""
    return -F.cosine_similarity(queries, documents).mean()
''',
    ),
    ("embed", "head"): (
        '''
def head(width: int, *, slope: float = 0.1) -> nn.Module:
    """Leaky."""
    return nn.LeakyReLU(slope)
''',
        '''
class Same(nn.Module):
    """Nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def head() -> nn.Module:
    """Nothing."""
    return Same()
''',
    ),
    ("embed", "classifiers"): (
        '''
class Classifiers(nn.Module):
    """Of the first coordinates."""

    def __init__(self, width: int, classes: int, *, size: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(size, classes)

    def forward(self, embeddings: Tensor) -> dict:
        size = self.layer.in_features
        return {size: self.layer(embeddings[:, :size])}
''',
        '''
class Constant(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, embeddings: Tensor) -> dict:
        return {1: self.bias.expand(len(embeddings), -1)}


def classifiers(classes: int) -> nn.Module:
    """The commonest class."""
    return Constant(classes)
''',
    ),
    ("embed", "project"): (
        '''
def project(embeddings: Tensor, *, eps: float = 1e-5) -> nn.Module:
    """Layer norm."""
    return nn.LayerNorm(embeddings.shape[1], eps)
''',
        '''
def project() -> nn.Module:
    """Nothing."""
    return nn.Identity()
''',
    ),
}
CASES = [(act, verb, number) for act, verb in SAMPLES for number in (0, 1)]

WIDTH, VOCABULARY = 64, 32
IDS = torch.randint(3, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(1))


SPACE = Space((16, 16, 16), 6, 3, (0.25, 0.5, 1.0), least=2)


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def slug_of(act: str, verb: str, number: int) -> str:
    return f"{act}-{verb}-{'ab'[number]}".replace("_", "-")


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The sample files in a folder of another package, found as the entry point's folders are."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "samples").mkdir()
    for act, verb, number in CASES:
        name = slug_of(act, verb, number).replace("-", "_")
        (folder / "samples" / f"{name}.py").write_text(HEAD + SAMPLES[act, verb][number].lstrip("\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_folders", lambda: iter([METHODS, folder]))
        methods.cache_clear()
        yield
    methods.cache_clear()


class Tune:
    """A fine-tuning setting of two steps."""

    def __init__(self) -> None:
        self.model, self.teacher, self.steps, self.rates = llama(0), llama(1), 2, (1e-2,)

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            rows = IDS[torch.randperm(4, generator=draw)[:2]]
            yield {"input_ids": rows[:, :-1]}, rows[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0


def setting_of(act: str) -> Any:
    """A tiny setting for an act's arms."""
    if act == "compress":
        batches = [{"input_ids": rows} for rows in IDS.split(2)]
        return SimpleNamespace(model=llama(), calibration=batches)
    if act == "train":
        sizes = {"vocabulary": VOCABULARY, "width": 16, "heads": 2, "layers": 2, "inner": 24, "length": 16}
        return SimpleNamespace(
            train=Split((IDS[:, :-1],), IDS[:, 1:]), epochs=1, batch=2, rates=(1e-2,),
            network=lambda parts: decoder(parts, **sizes), validate=lambda network: 0.0,
        )  # fmt: skip
    if act == "objective":
        return objective_settings.convolutional()
    if act == "search":
        return SimpleNamespace(space=SPACE, budget=4, reward=SPACE.compression)
    if act == "embed":
        pairs = Pairs(*torch.randn(2, 6, 3, 16, generator=torch.Generator().manual_seed(1)))
        return SimpleNamespace(
            train=pairs, validation=pairs, classes=0, layers=3, width=16, steps=2, batch=3, rates=(1e-2,),
            network=lambda: Ladder(3, 16, 8, 0.1), validate=lambda arm: 0.0,
        )  # fmt: skip
    if act == "merge":
        return SimpleNamespace(base=llama(0), models=[llama(1), llama(2)])
    return Tune()


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def alike(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def built(slug: str) -> tuple[Any, Any]:
    """(setting, arm) of a sample at its defaults, seed 3; the global random state and the setting are left alone."""
    method = find_method(slug)
    act, setting = act_of(method), None
    assert act is not None
    setting = setting_of(act.name)
    kept = [model for model in (getattr(setting, name, None) for name in ("model", "base", "teacher")) if model]
    before, state = [weights(model) for model in kept], torch.get_rng_state()
    driver = importlib.import_module(f"paperlab.lab.drivers.{act.name}")
    arm = driver.build(functions_of(Arm(slug)), {}, setting=setting, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(alike(weights(model), first) for model, first in zip(kept, before, strict=True))
    assert type(arm).__name__ == act.builds
    return setting, arm


def names() -> dict[str, Any]:
    """What the printed lines take for given: whatever a user brings."""
    model, draw = llama(), torch.Generator().manual_seed(2)
    return {
        "model": model, "causal_model": llama(1), "larger_model": llama(2), "prompt_ids": IDS[:2, :5],
        "texts": [IDS[:2], IDS[2]],
        "logits": torch.randn(6, 9, generator=draw), "labels": torch.randint(9, (6,), generator=draw),
        "student_logits": torch.randn(6, 9, generator=draw), "teacher_logits": torch.randn(6, 9, generator=draw),
        "student_hidden": (torch.randn(2, 3, 8),) * 3, "teacher_hidden": (torch.randn(2, 3, 8),) * 3,
        "mask": torch.ones(2, 3), "share": 0.5, "space": SPACE, "evaluate": SPACE.compression,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "setting": Tune(),
        "queries": torch.randn(6, 5, 384, generator=draw), "documents": torch.randn(6, 5, 384, generator=draw),
        "embeddings": torch.randn(9, 384, generator=draw),
        "base": nn.Linear(4, 3), "model_a": nn.Linear(4, 3), "model_b": nn.Linear(4, 3),
        "score": lambda model: -model.weight.norm().item(),
    }  # fmt: skip


def test_every_verb_has_two_samples() -> None:
    assert set(SAMPLES) == {(act.name, verb) for act in acts().values() for verb in act.verbs}


@pytest.mark.parametrize(("act", "verb", "number"), CASES)
def test_a_sample_is_read_as_what_it_is(act: str, verb: str, number: int) -> None:
    method = find_method(slug_of(act, verb, number))
    assert method.verbs == (verb,)
    assert act_of(method).name == act
    assert (len(method.parameters) == 1) == (number == 0 and (act, verb) != ("compress", "transform"))
    assert set(method.asks[verb]) <= set(acts()[act].verbs[verb].supplies)


def test_first_samples_ask_for_all_that_there_is() -> None:
    for act, verb in SAMPLES:
        if act == "compress" and verb in ("keep", "factor"):
            continue  # supplied like quantize
        asked = find_method(slug_of(act, verb, 0)).asks[verb]
        assert set(asked) == set(acts()[act].verbs[verb].supplies), f"{act}: {verb}"


@pytest.mark.parametrize(("act", "verb", "number"), CASES)
def test_a_sample_becomes_an_arm_the_same_for_the_same_seed(act: str, verb: str, number: int) -> None:
    slug = slug_of(act, verb, number)
    (_, one), (_, two) = built(slug), built(slug)
    if act == "search":
        assert one == two
        return
    if act == "switch":
        bits = torch.rand(2, 9) * 3
        assert torch.equal(place(bits, bits, one.rule), place(bits, bits, two.rule))
        return
    assert not one.model.training
    assert alike(weights(one.model), weights(two.model))


@pytest.mark.parametrize(("act", "verb", "number"), CASES)
def test_the_printed_lines_of_a_sample_run(act: str, verb: str, number: int) -> None:
    given = names() | (objective_settings.names(objective_settings.convolutional()) if act == "objective" else {})
    exec(snippet(find_method(slug_of(act, verb, number))), given)


REAL = [method for method in methods().values() if snippet(method)]


@pytest.mark.parametrize("method", REAL, ids=lambda method: method.slug)
def test_the_printed_lines_of_a_method_run(method: Method) -> None:
    given, state = names(), torch.get_rng_state()
    if method.verbs == ("objective",):
        run_on_what_it_is_made_for(snippet(method))
        return
    exec(snippet(method), given)
    if verb_of(method).own_model:  # a new layer may draw its weights; work on a model leaves the random state alone
        assert torch.equal(torch.get_rng_state(), state)


def run_on_what_it_is_made_for(lines: str) -> None:
    """An objective is made for networks of one kind; it refuses others."""
    ran = 0
    for make in objective_settings.SETTINGS.values():
        with suppress(ValueError):
            exec(lines, objective_settings.names(make()))
            ran += 1
    assert ran


# What the verbs do


def arm(act: str, verb: str, number: int = 0) -> tuple[Any, Any]:
    return built(slug_of(act, verb, number))


def test_training_uses_the_part() -> None:
    def has(verb: str, number: int, kind: str) -> int:
        return sum(type(module).__name__ == kind for module in arm("train", verb, number)[1].model.modules())

    assert has("linear", 0, "Linear") == 2 * (4 + 3) + 1
    assert has("norm", 0, "LayerNorm") == has("norm", 1, "Norm") == 5
    assert has("activation", 0, "LeakyReLU") == has("activation", 1, "Squared") == 2
    assert has("attention", 0, "Attention") == has("block", 0, "Block") == 2
    assert has("feed_forward", 0, "GELU") == has("feed_forward", 1, "FeedForward") == 2
    assert type(arm("train", "network", 1)[1].model).__name__ == "Network"


def test_training_is_moved_by_loss_schedule_start_and_optimizer() -> None:
    plain = weights(arm("train", "loss", 1)[1].model)  # cross-entropy, a line, AdamW: what stands there anyway
    assert alike(plain, weights(arm("train", "rate", 1)[1].model))
    for verb, number in (("loss", 0), ("rate", 0), ("init", 0), ("optimizer", 0), ("optimizer", 1)):
        assert not alike(plain, weights(arm("train", verb, number)[1].model)), verb


def test_a_rate_is_a_schedule_that_stays_at_its_end() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, paperlab.load("train-rate-b")(4))
    seen = []
    for _ in range(6):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert seen == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]


def test_a_part_takes_what_it_asks_for_by_position_or_name() -> None:
    labels, logits = torch.tensor([0, 1]), torch.randn(2, 3)
    loss = paperlab.load("train-loss-b")  # loss(labels, logits): positions are the driver's, whatever the file's
    assert loss(logits, labels) == loss(labels=labels, logits=logits)
    assert paperlab.load("train-linear-b")(3, 5, True).weight.shape == (5, 3)
    assert paperlab.load("train-linear-a", share=0.25)(3, 5).share == 0.25
    with pytest.raises(TypeError):
        loss(logits, labels, 1.0)
    with pytest.raises(TypeError):
        loss(logits, label=labels)


def test_a_student_learns_from_its_teacher_or_the_labels() -> None:
    setting, taught = arm("finetune", "loss", 0)
    _, plain = arm("finetune", "loss", 1)
    assert taught.steps == plain.steps == 2
    assert taught.trained == sum(p.numel() for p in setting.model.parameters())
    start = weights(setting.model)
    assert not alike(weights(taught.model), start)
    assert not alike(weights(taught.model), weights(plain.model))


def test_a_loss_that_asks_for_a_teacher_is_refused_where_there_is_none() -> None:
    setting = setting_of("finetune")
    setting.teacher = None
    driver = importlib.import_module("paperlab.lab.drivers.finetune")
    with pytest.raises(ValueError, match="asks for a teacher"):
        driver.build(functions_of(Arm("finetune-loss-a")), {}, setting=setting)


def test_of_an_adapted_model_only_the_adapters_are_trained() -> None:
    setting, tuned = arm("finetune", "adapter", 0)
    before = dict(setting.model.named_parameters())
    after = dict(tuned.model.named_parameters())
    added = [name for name in after if name.endswith((".down", ".up"))]
    assert len(added) == 2 * 2 * 7
    assert tuned.trained == sum(after[name].numel() for name in added)
    for name in after.keys() - set(added):
        assert torch.equal(after[name], before[name.replace(".linear.", ".")])
    assert any(after[name].abs().sum() > 0 for name in added if name.endswith(".up"))


def test_adapters_on_one_s_own_model_change_nothing_before_training() -> None:
    model = llama()
    adapted = paperlab.load("finetune-adapter-a", rank=3)(model)
    assert torch.equal(adapted(IDS).logits, model(IDS).logits)
    assert {p.requires_grad for p in model.parameters()} == {True}
    assert {n.rpartition(".")[2] for n, p in adapted.named_parameters() if p.requires_grad} == {"down", "up"}


def test_a_recipe_trains_the_copy() -> None:
    setting, tuned = arm("finetune", "recipe", 0)
    assert not torch.equal(tuned.model.lm_head.weight, setting.model.lm_head.weight)
    assert torch.equal(tuned.model.model.embed_tokens.weight, setting.model.model.embed_tokens.weight)
    _, doubled = arm("finetune", "recipe", 1)
    assert torch.equal(doubled.model.lm_head.weight, 2 * setting.model.lm_head.weight)


def test_what_an_objective_adds_is_trained_and_dropped_and_it_may_say_what_is_left() -> None:
    setting, tuned = arm("objective", "objective", 0)
    own = sum(parameter.numel() for parameter in setting.model.parameters())
    assert tuned.trained == own + 3
    assert sum(parameter.numel() for parameter in tuned.model.parameters()) == own
    _, opposite = arm("objective", "objective", 1)
    plain = importlib.import_module("paperlab.lab.drivers.finetune")
    same = plain.build({"loss": lambda student, labels: nn.functional.cross_entropy(student, labels)}, {},
                       setting=setting, seed=3)  # fmt: skip
    assert torch.equal(opposite.model.classifier.weight, -same.model.classifier.weight)  # the same loop, bit by bit
    assert torch.equal(opposite.model.classifier.bias, same.model.classifier.bias)


def test_a_search_settles_on_what_it_asked_about() -> None:
    _, narrow = arm("search", "architecture", 0)
    assert narrow.choice == (1.0, 0.5, 0.5)  # seed 3
    assert (narrow.evaluations, narrow.curve) == (4, [narrow.reward] * 4)
    _, whole = arm("search", "architecture", 1)
    assert (whole.choice, whole.reward, whole.evaluations) == (SPACE.whole, 0, 1)


def test_a_merge_may_draw_or_look_at_the_models_alone() -> None:
    setting, noisy = arm("merge", "merge", 0)
    assert noisy.models == 2
    assert not alike(weights(noisy.model), weights(setting.base))
    _, first = arm("merge", "merge", 1)
    assert alike(weights(first.model), weights(setting.models[0]))


def test_embeddings_are_moved_by_the_loss_alone_and_pass_their_head_and_projection() -> None:
    setting, one = arm("embed", "loss", 0)
    _, other = arm("embed", "loss", 1)
    assert not alike(weights(one.model), weights(other.model))
    states = setting.train.queries
    assert arm("embed", "classifiers", 0)[1].steps == 0  # pairs: nothing to minimise
    _, plain = arm("embed", "project", 1)
    assert torch.equal(plain.embed(states), states.transpose(0, 1))
    _, leaky = arm("embed", "head", 0)
    assert torch.equal(leaky.embed(states), nn.functional.leaky_relu(states.transpose(0, 1), 0.1))
    _, normed = arm("embed", "project", 0)
    assert torch.equal(normed.embed(states)[:-1], plain.embed(states)[:-1])
    assert normed.embed(states)[-1].mean(-1).abs().max() < 1e-6


def test_classifiers_train_without_a_loss_for_pairs() -> None:
    setting = setting_of("embed")
    setting.classes, setting.train = 3, Labelled(setting.train.queries, torch.arange(6) % 3)
    setting.validation = setting.train
    driver = importlib.import_module("paperlab.lab.drivers.embed")
    made = driver.build(functions_of(Arm("embed-classifiers-a")), {}, setting=setting, seed=3)
    assert made.steps == 2
    assert made.trained == sum(p.numel() for part in (made.model, made.classifiers) for p in part.parameters())
    assert set(made.classifiers(torch.randn(2, 16))) == {4}


def test_decoding_draws_by_its_seed_from_what_the_step_leaves() -> None:
    setting, once = arm("decode", "step", 0)
    one, again, other = (once.generate(IDS[:2, :5], 9, seed) for seed in (0, 0, 1))
    assert one.shape == (2, 14)
    assert torch.equal(one[:, :5], IDS[:2, :5])
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    for row in one:
        assert set(row[:5].tolist()).isdisjoint(row[5:].tolist())
        assert len(set(row[5:].tolist())) == 9
    _, greedy = arm("decode", "step", 1)
    wanted = setting.model.generate(IDS[:2, :5], max_new_tokens=9, min_new_tokens=9, do_sample=False)
    assert torch.equal(greedy.generate(IDS[:2, :5], 9), wanted)
    _, drawn = arm("decode", "generate", 0)
    assert torch.equal(drawn.generate(IDS[:2, :5], 9, 4), drawn.generate(IDS[:2, :5], 9, 4))
    _, echo = arm("decode", "generate", 1)
    assert echo.generate(IDS[:2, :5], 3)[:, 5:].tolist() == [[int(row[4])] * 3 for row in IDS[:2]]


def test_turns_are_taken_as_the_rule_says() -> None:
    _, busy = arm("switch", "switch", 0)
    bits = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0], [2.0, 2.0, 0.0, 0.0, 0.0]])
    chosen = place(bits, bits, busy.rule)  # seed 3: token 1, 3, 5 ... in any case
    assert chosen.int().tolist() == [[0, 1, 0, 1, 1], [0, 1, 1, 1, 0]]
    bits[:, 4] = 9.0
    assert place(bits, bits, busy.rule).int().tolist() == [[0, 1, 0, 1, 0], [0, 1, 1, 1, 0]]
    _, alone = arm("switch", "switch", 1)
    assert not place(bits, bits, alone.rule).any()


def test_decoding_starts_from_what_an_arm_before_left() -> None:
    driver = importlib.import_module("paperlab.lab.drivers.decode")
    start = SimpleNamespace(model=llama(5))
    made = driver.build(functions_of(Arm("decode-step-b")), {}, setting=setting_of("decode"), start=start)
    assert made.model is start.model


def test_compressing_verbs_leave_what_they_say() -> None:
    _, kept = arm("compress", "keep", 0)
    assert kept.totals()["density"] < 0.95
    assert {type(matrix).__name__ for matrix in kept.layers.values()} == {"Sparse"}
    _, thin = arm("compress", "factor", 0)
    assert {type(matrix).__name__ for matrix in thin.layers.values()} == {"Factors"}
    _, added = arm("compress", "factor", 1)
    assert {type(matrix).__name__ for matrix in added.layers.values()} == {"Sum"}
    setting, cut = arm("compress", "submodel", 0)
    assert len(cut.model.model.layers) == 1
    assert len(setting.model.model.layers) == 2
    _, rounded = arm("compress", "quantize", 0)
    assert {matrix.bits for matrix in rounded.layers.values()} == {4}


def test_parts_that_nobody_brings_are_the_reference() -> None:
    setting = setting_of("train")
    torch.manual_seed(3)
    network = setting.network(PARTS)
    torch.manual_seed(3)
    assert alike(weights(network), weights(copy.deepcopy(setting).network(PARTS)))
