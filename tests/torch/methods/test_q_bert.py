import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.objective import embeddings, loss, targets
from paperlab.kit.walk import block_linears
from paperlab.methods.quantization.q_bert import _Rounded, _sharpness, round_rows, transform


def bert(attention: str = "sdpa"):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=64, attn_implementation=attention,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(60, (4, 16), generator=draw), "attention_mask": torch.ones(4, 16).long()}
        for _ in range(3)
    ]


def test_a_hand_worked_pair_of_groups():
    """Rows 0-1 run 0..3, rows 2-3 run 0..30: at 2 bits steps of 1 and of 10. With one group all share a step of 10."""
    weight = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 12.0], [30.0, 4.0]])
    two = round_rows(weight, bits=2, groups=2)
    assert torch.equal(two.dense(), torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 10.0], [30.0, 0.0]]))
    assert two.stored_bits() == {"codes": 16, "scale": 32, "zero": 4}
    one = round_rows(weight, bits=2, groups=1)
    assert torch.equal(one.dense(), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 10.0], [30.0, 0.0]]))
    assert one.stored_bits() == {"codes": 16, "scale": 16, "zero": 2}


def test_groups_are_whole_rows_whatever_their_number():
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    assert round_rows(weight, bits=3, groups=8).scale.shape == (4, 1)  # gcd(8, 12)
    errors = [(round_rows(weight, bits=3, groups=g).dense() - weight).square().sum() for g in (1, 4, 12)]
    assert errors[0] > errors[1] > errors[2]


def test_top_eigenvalues_of_the_encoder_are_those_of_the_gauss_newton_matrix(data):
    """Over all parameters of the block, biases and norms too."""
    block = "encoder.layer.1"
    found = _sharpness(bert(), [block], data[:1], 1, 64, 0, tolerance=1e-5)[block][0]
    eager = bert("eager")
    own = {name: p.detach() for name, p in eager.named_parameters() if name.startswith(f"{block}.")}
    assert sum(name.endswith("bias") for name in own) == 8

    def at(*values: torch.Tensor) -> torch.Tensor:
        class Called:  # the model as a function of this block alone
            def __call__(self, **batch: torch.Tensor) -> object:
                return torch.func.functional_call(eager, dict(zip(own, values, strict=True)), kwargs=batch)

        return embeddings(Called(), data[0]).flatten()

    parts = torch.autograd.functional.jacobian(at, tuple(own.values()))
    jacobian = torch.cat([part.flatten(1) for part in parts], dim=1).double()
    exact = torch.linalg.eigvalsh(2 / 4 * jacobian @ jacobian.T)[-1].item()  # 2 J^T J, mean over four sentences
    assert found == pytest.approx(exact, rel=0.01)


def test_straight_through_rounds_forwards_only():
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rounded = _Rounded(2, 2)(weight)
    assert torch.allclose(rounded, round_rows(weight, bits=2, groups=2).dense())
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 8))


@pytest.mark.parametrize(("make", "rate"), [(bert, 1e-3), (llama, 3e-3)])
def test_training_helps_and_what_is_returned_is_what_runs(make, rate, data):
    measure = {}
    for steps in (0, 20):
        original = make()
        arm = transform(make(), data, 0, steps=steps, rate=rate, groups=4)
        assert arm.model.state_dict().keys() == original.state_dict().keys()
        for name, layer in block_linears(arm.model).items():
            assert torch.equal(arm.layers[name].dense(), layer.weight)
            assert len(torch.unique(arm.layers[name].codes)) <= 2 ** arm.layers[name].bits
        with torch.no_grad():
            wanted = targets(original, data)
            measure[steps] = sum(loss(arm.model, b, w).item() for b, w in zip(data, wanted, strict=True))
    assert measure[20] < measure[0]
    assert sorted(arm.notes["bits"].values()) == [2, 2, 3, 3]


def test_orders(data):
    by = {order: transform(bert(), data, 0, order=order, steps=0, groups=4) for order in ("hessian", "reversed")}
    hessian, reversed_ = (by[order].notes["bits"] for order in ("hessian", "reversed"))
    assert all({hessian[block], reversed_[block]} == {2, 3} for block in hessian)
    values = by["hessian"].notes["top eigenvalues"]
    omega = {b: abs(sum(v) / 3) + torch.tensor(v).std(unbiased=False).item() for b, v in values.items()}
    assert min(omega[b] for b in omega if hessian[b] == 3) >= max(omega[b] for b in omega if hessian[b] == 2)
    sizes = {arm.totals()["layer_bits"] for arm in by.values()}
    drawn = [transform(bert(), data, seed, order="random", steps=0, groups=4) for seed in range(5)]
    assert sizes == {arm.totals()["layer_bits"] for arm in drawn}
    assert len({tuple(arm.notes["bits"].items()) for arm in drawn}) > 1  # a baseline that is a distribution


def test_one_width_for_all_looks_at_no_curvature(data):
    arm = transform(bert(), data, 0, mean_bits=4.0, high=4, steps=0, groups=4)
    assert set(arm.notes["bits"].values()) == {4}
    assert arm.notes["top eigenvalues"] == {}


def test_bad_parameters_are_refused(data):
    for wrong in ({"low": 3, "high": 3}, {"groups": 0}, {"batches": 1}, {"mean_bits": 4.0}):
        with pytest.raises(ValueError, match=r"low=|mean_bits"):
            transform(bert(), data, 0, **wrong)
