"""A review of parameter-efficient fine-tuning: do few trained weights tune a model as well as all of them?

Of the eleven methods that the review tries, the two at the ends of its table by what they need of a layer are run:
LoRA, thin matrices beside each weight, and BitFit, biases alone. Xu, Xie, Qin, Tao and Wang, "Parameter-Efficient
Fine-Tuning Methods for Pretrained Language Models: A Critical Review and Assessment", arXiv 2312.12148.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="low-rank",
    paper="peft-critical-review",
    sources=("abstract",),
    task="cls",
    metric="accuracy",
    expect="no worse",
    margin=0.01,
    equal={"steps": 0.0},
    gap="Theirs: RoBERTa on GLUE, T5 on translation and LLaMA on questions, trained for epochs; their memory is a "
    "GPU's. Here the upper two of MiniLM's six blocks, 60 steps of 16 questions in 42 classes. How many parameters "
    "each arm trains stands beside the figures; optimizer states take two numbers for each, which is arithmetic and "
    "no check.",
    checks=(
        Check(
            claim="lora-as-good-as-all-weights",
            says="LoRA tunes about as well as fine-tuning all weights that it adapts, with 3 % of them trained (the "
            "review: representative methods are comparable to full fine-tuning).",
            method=Arm("lora"),
            baseline=Arm("fine-tuning"),
            trivial=Arm("lora", scale=0.0),
        ),
        Check(
            claim="biases-alone-as-good-as-all-weights",
            says="Are biases alone enough too?",
            method=Arm("bitfit"),
            baseline=Arm("fine-tuning"),
            trivial=Arm("lora", scale=0.0),
            role="question",
        ),
        Check(
            claim="rank-1-as-good-as-rank-8",
            says="Does the rank of LoRA's update matter?",
            method=Arm("lora", rank=1),
            baseline=Arm("lora"),
            role="question",
        ),
    ),
    departs=(
        "rates were widened from two to five after first runs in which LoRA's best lay at the edge; the last grid's "
        "record is the one that counts",
        "every linear layer of the two blocks is adapted; the review adapts query and value",
        "the head stays the linear probe that every arm begins with; full fine-tuning moves it, norms and biases too",
        "adapters between layers, prompts, prefixes, (IA)^3 and the hybrids are not run",
    ),
)
