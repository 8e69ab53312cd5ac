"""Read the records and compute their verdicts again: python read_records.py

Records are JSON lines with every value of every arm; a verdict is a pure function of one record.
"""

from math import exp
from statistics import fmean

from paperlab.core.methods import methods
from paperlab.core.record import read
from paperlab.core.standings import current
from paperlab.core.verdict import verdict

for record in current(read(), methods()).current:
    said = verdict(record)
    print(f"{record.method} / {record.check.claim} on {record.model}: {said.word}")
    if record.metric == "perplexity" and said.method_value is not None:
        nll = [value for seed in record.arms[0].samples.values() for value in seed["nll"]]  # nats per token
        print(f"    perplexity {exp(fmean(nll)):.6g}; the verdict has {said.method_value:.6g}")
