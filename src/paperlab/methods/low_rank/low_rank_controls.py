"""Controls of the family, and what its plain methods claim, asked here.

No method of its own. A check of this family is worth what the controls show: a positive one that fails, or a negative
one that holds, means that task, driver or statistics are broken, not that a paper is wrong. ASVD and SVD-LLM are
baselines here (the catalogue has no row for them), so their claims stand as questions.
"""

from paperlab.core.card import Arm, Card, Check, Gate

CARD = Card(
    family="low-rank",
    sources=("abstract", "code"),
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"layer_bits": 0.001},
    models=("abstracts-lm",),
    gap="Theirs: LLaMA-7B, a fifth of each matrix gone, WikiText. Here: 6 million parameters, half of a matrix gone, "
    "few short windows. A pass shows nothing about models with outlier features, where the gain is said to come from.",
    checks=(
        Check(
            claim="nine-tenths-better-than-a-tenth",
            says="Factors that hold nine tenths of a matrix's numbers predict better than such that hold a tenth.",
            equal={"parameters": 0.0},
            method=Arm("svd", ratio=0.9),
            baseline=Arm("svd", ratio=0.1),
            gap="A control, not a claim: the sizes differ on purpose. It shows that the task can tell good from bad.",
            role="positive control",
        ),
        Check(
            claim="asvd-without-its-scales",
            says="ASVD at alpha = 0 counts all inputs alike and must not be better than plain SVD.",
            method=Arm("asvd", ratio=0.5, alpha=0.0),
            baseline=Arm("svd", ratio=0.5),
            gap="A control, not a claim: ASVD with its key idea taken out.",
            role="negative control",
        ),
        Check(
            claim="svd-llm-against-itself",
            says="The same arm twice: what other calibration windows alone change.",
            expect="equal",
            method=Arm("svd-llm", ratio=0.5),
            baseline=Arm("svd-llm", ratio=0.5),
            gap="A control, not a claim: the floor below which no difference counts.",
            role="a/a control",
        ),
        Check(
            claim="asvd-better-than-svd",
            says="Scaling the inputs by their size before the SVD loses less (ASVD).",
            method=Arm("asvd", ratio=0.5),
            baseline=Arm("svd", ratio=0.5),
            beside=(Arm("asvd", ratio=0.5, alpha=1.0), Arm("original")),
            gates=(
                Gate(
                    says="with alpha = 0 it is plain SVD",
                    method=Arm("asvd", ratio=0.5, alpha=0.0),
                    baseline=Arm("svd", ratio=0.5),
                    tolerance=0.001,
                ),
            ),
            role="question",
        ),
        Check(
            claim="svd-llm-better-than-asvd",
            says="Whitening the inputs before the SVD loses less than scaling them (SVD-LLM).",
            method=Arm("svd-llm", ratio=0.5),
            baseline=Arm("asvd", ratio=0.5),
            trivial=Arm("svd", ratio=0.5),
            role="question",
        ),
        Check(
            claim="svd-llm-better-than-pruning-at-equal-bits",
            says="Are thin matrices a better use of 9 bits a weight than half of the weights, refitted, with a bit for "
            "each to say which?",
            equal={"layer_bits": 0.02},
            method=Arm("svd-llm", ratio=0.565),
            baseline=Arm("sparsegpt", sparsity=0.5, pattern="2:4"),
            trivial=Arm("svd", ratio=0.565),
            role="question",
        ),
    ),
)
