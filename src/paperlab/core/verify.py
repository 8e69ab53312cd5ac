"""Verify records: does every published verdict follow from the samples, and is every record whole?"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from itertools import chain
from json import loads
from pathlib import Path

from paperlab.core import summaries
from paperlab.core.home import BUNDLED
from paperlab.core.published import Place, Row, read_rows, row
from paperlab.core.record import Record, from_row, record_files, records_folder, written_check_hash

ALONE = 64  # records; fewer are verified faster by one process


def verify(folders: tuple[Path, ...] | None = None, *, processes: int | None = None) -> tuple[int, list[str]]:
    """The number of records, and the problems of all of them; the bundled ones and this machine's unless named.

    Every verdict is recomputed from the samples and must equal its published row exactly. processes: as many as the
    machine has cores unless named.
    """
    files = [file for folder in folders or (BUNDLED / "records", records_folder()) for file in record_files(folder)]
    files.sort(key=lambda file: file.stat().st_size, reverse=True)  # the longest first, so that none is waited for
    processes = min(processes or os.cpu_count() or 1, len(files))
    lines = sum(file.read_bytes().count(b"\n") for file in files)
    if processes > 1 and lines > ALONE:
        with ProcessPoolExecutor(processes) as pool:
            results = list(pool.map(file_problems, files, chunksize=4))
    else:
        results = [file_problems(file) for file in files]
    ids = [name for names, _ in results for name in names]
    seen: set[str] = set()
    twice = [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    problems = list(chain.from_iterable(found for _, found in results))
    return len(ids), problems + [f"record {name}: its id occurs twice" for name in twice]


def file_problems(file: Path) -> tuple[list[str], list[str]]:
    """The ids of a file's records, and everything that is wrong with them and their published rows."""
    ids: list[str] = []
    found: list[str] = []
    rows: dict[str, tuple[Row, Place]] = {}
    try:
        rows = {entry.id: (entry, place) for _, entry, place in read_rows(file)}
    except ValueError as error:
        found.append(str(error))
    offset = 0
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
        try:
            read = loads(line)
            record = from_row(read)
            hashed = written_check_hash(read)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.append(f"{file}:{number}: not a record: {error}")
        else:
            ids.append(record.id)
            published, place = rows.get(record.id, (None, None))
            found += problems(record, published, hashed)
            if place and (place.offset, place.length) != (offset, len(line)):
                found.append(f"{_name(record)}: its published row names another line")
        offset += len(line)
    found += summaries.problems(file)
    found += [f"record {name}: a verdict is published, but there is no such record" for name in rows if name not in ids]
    return ids, found


def problems(record: Record, published: Row | None, check_hash: str | None = None) -> list[str]:
    """Everything that is wrong with a record and its published row; [] if all is right.

    check_hash: of the check as the record's line has it, where slugs may be spelled as they were.
    """
    found = faults(record, check_hash or record.check.hash)
    if published is None:
        found.append("no published verdict")
    else:
        now = row(record)
        for name in (f.name for f in fields(Row)):
            then, again = getattr(published, name), getattr(now, name)
            if then != again:
                found.append(f"published {name} is {then!r}, its samples say {again!r}")
    return [f"{_name(record)}: {problem}" for problem in found]


def _name(record: Record) -> str:
    return f"record {record.id} ({record.method}, {record.check.claim}, {record.task})"


def faults(record: Record, check_hash: str) -> list[str]:
    """What is wrong with a record by itself."""
    found = []
    if record.check_hash != check_hash:
        found.append(f"its check hashes to {check_hash}, not to {record.check_hash}")
    if record.check.tasks.get(record.task) != record.metric:
        found.append(f"its check does not judge {record.task} by {record.metric}")
    if [arm.arm for arm in record.arms] != list(record.check.arms):
        found.append("its arms are not those of its check")
    if not record.code_hash:
        found.append("it has no code hash")
    if record.dirty:
        found.append("it was made from code with uncommitted changes")
    if record.schema >= 2:
        found += [f"{arm.arm} does not say which code made it" for arm in record.arms if not arm.sources]
    if record.status == "finished":
        found += _sample_faults(record)
    return found


def _sample_faults(record: Record) -> list[str]:
    """What is wrong with the samples of a finished record: seeds that lack, or arms with fewer values."""
    found = []
    every = {str(seed) for seed in record.seeds}
    whole = [arm for arm in record.arms if not arm.error]
    for arm in whole:
        seeds = set(arm.samples)
        if seeds != every and not (not arm.drawn and len(seeds) == 1 and seeds <= every):
            found.append(f"{arm.arm} has samples of other seeds than {record.seeds}")
    for seed in sorted(every):
        there = [arm.samples[seed] for arm in whole if seed in arm.samples]
        for key in sorted({key for samples in there for key in samples}):
            sizes = {len(samples.get(key, [])) for samples in there}
            if len(sizes) > 1:
                found.append(f"seed {seed} has between {min(sizes)} and {max(sizes)} values of {key} per arm")
    return found
