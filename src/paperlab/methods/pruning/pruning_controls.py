"""Controls of the family, and what its two best-known methods claim, asked here.

No method of its own. A check of this family is worth what the controls show: a positive one that fails, or a
negative one that holds, means that task, driver or statistics are broken, not that a paper is wrong. Wanda and
SparseGPT are baselines here (the catalogue has no row for them), so their claims stand as questions.

The figures in `says` are from the table in the repository of Wanda's authors: LLaMA-2-7B, WikiText, 5.12 unpruned.
"""

from paperlab.core.card import Arm, Card, Check, Gate

CARD = Card(
    family="pruning",
    sources=("abstract", "code"),
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"density": 0.01},
    models=("abstracts-lm",),  # five draws of each arm on 135 million weights would take a quarter of an hour
    gap="Theirs: LLaMA-2-7B, 128 windows of C4 to calibrate on, WikiText. Here: 6 million parameters, few short "
    "windows. A pass shows nothing about models with outlier features, where the gain is said to come from.",
    checks=(
        Check(
            claim="a-tenth-better-than-four-fifths",
            says="A model without a tenth of its weights predicts better than one without four fifths.",
            equal={"parameters": 0.0},
            method=Arm("magnitude", sparsity=0.1),
            baseline=Arm("magnitude", sparsity=0.8),
            gap="A control, not a claim: the sizes differ on purpose. It shows that the task can tell good from bad.",
            role="positive control",
        ),
        Check(
            claim="wanda-with-norms-of-other-inputs",
            says="Wanda whose columns have each other's norms must not be better than magnitudes alone.",
            method=Arm("wanda", sparsity=0.5, norms="shuffled"),
            baseline=Arm("magnitude", sparsity=0.5, scope="row"),
            gap="A control, not a claim: Wanda with its key idea destroyed.",
            role="negative control",
        ),
        Check(
            claim="wanda-against-itself",
            says="The same arm twice: what other calibration windows alone change.",
            expect="equal",
            method=Arm("wanda", sparsity=0.5),
            baseline=Arm("wanda", sparsity=0.5),
            gap="A control, not a claim: the floor below which no difference counts.",
            role="a/a control",
        ),
        Check(
            claim="wanda-better-than-magnitude",
            says="Half of the weights gone, perplexity is 6.42 with Wanda and 14.89 by magnitude in each layer.",
            method=Arm("wanda", sparsity=0.5),
            baseline=Arm("magnitude", sparsity=0.5),
            beside=(Arm("sparsegpt", sparsity=0.5), Arm("magnitude", sparsity=0.5, scope="global"), Arm("original")),
            ablation=Arm("magnitude", sparsity=0.5, scope="row"),
            gates=(
                Gate(
                    says="with all norms equal it is magnitude in each row",
                    method=Arm("wanda", sparsity=0.5, norms="equal"),
                    baseline=Arm("magnitude", sparsity=0.5, scope="row"),
                ),
            ),
            role="question",
        ),
        Check(
            claim="wanda-2-4-better-than-magnitude",
            says="Two of every four weights kept, perplexity is 11.02 with Wanda and 54.59 by magnitude.",
            method=Arm("wanda", sparsity=0.5, pattern="2:4"),
            baseline=Arm("magnitude", sparsity=0.5, pattern="2:4"),
            role="question",
        ),
        Check(
            claim="wanda-on-par-with-sparsegpt",
            says="Half of the weights gone, Wanda without any update (6.42) is on par with SparseGPT (6.51).",
            expect="equal",
            margin=0.05,
            method=Arm("wanda", sparsity=0.5),
            baseline=Arm("sparsegpt", sparsity=0.5),
            trivial=Arm("magnitude", sparsity=0.5),
            role="question",
        ),
        Check(
            claim="sparsegpt-better-than-magnitude",
            says="Half of the weights gone, perplexity is 6.51 with SparseGPT and 14.89 by magnitude in each layer.",
            method=Arm("sparsegpt", sparsity=0.5),
            baseline=Arm("magnitude", sparsity=0.5),
            ablation=Arm("sparsegpt", sparsity=0.5, damping=1e6),
            gates=(
                Gate(
                    says="it is no worse than with a Hessian that says nothing, which leaves magnitude in each block",
                    method=Arm("sparsegpt", sparsity=0.5),
                    baseline=Arm("sparsegpt", sparsity=0.5, damping=1e6),
                    expect="better",
                ),
            ),
            role="question",
        ),
        Check(
            claim="sparsegpt-2-4-better-than-magnitude",
            says="Two of every four weights kept, perplexity is 10.17 with SparseGPT and 54.59 by magnitude.",
            method=Arm("sparsegpt", sparsity=0.5, pattern="2:4"),
            baseline=Arm("magnitude", sparsity=0.5, pattern="2:4"),
            ablation=Arm("sparsegpt", sparsity=0.5, pattern="2:4", damping=1e6),
            role="question",
        ),
        Check(
            claim="pruned-four-bits-better-than-three",
            says="Half of the weights in 4 bits, with a bit for each to say which, take the room of all in 3 bits, and "
            "predict better (SparseGPT).",
            equal={"layer_bits": 0.02},
            method=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5)),
            baseline=Arm("gptq", bits=3),
            beside=(Arm("round-to-nearest", bits=4, after=Arm("sparsegpt", sparsity=0.5)),),
            trivial=Arm("round-to-nearest", bits=3),
            gap="Theirs: models of up to 175 billion parameters, pruned and rounded in one pass; here one after the "
            "other on small ones. A pass shows nothing about the joint pass.",
            role="question",
        ),
    ),
)
