"""A site to look at: a server process on its own data folder, with daily lists, hostile papers and the bundled ones.

python site_process.py PORT
"""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any


def fill() -> None:
    """Papers of some days, in the ways that papers come."""
    from api_papers import HOSTILE, item, take

    from paperlab.site.store.item import Sighting

    now = datetime.now(UTC)
    items = []
    for n in range(1, 90):
        day = now - timedelta(days=n // 40)
        sighted = [Sighting(day.date(), 400 - 4 * n, n % 7)]
        items.append(item(n, published=day, sightings=sighted))
    maths = {
        "title": r"Attention in $\mathcal{O}(n \log n)$ and $\ell_2$ space for $x_{i}^{2} \leq \sqrt{d}$",
        "abstract": r"We show $\sum_{i=1}^{n} \alpha_i = 1$ for \emph{every} head, 5\% better, at a cost of \$3. "
        r"$$\frac{\partial L}{\partial w} = 0$$ "
        + "It ends. "
        * 30
        + r"$$\text{softmax}\left(\frac{QK^\top}{\sqrt{d}}\right)V$$ $$\left[\begin{aligned} a &= b \\ c &= d \\ e &= f"
        r"\end{aligned}\right]$$ At last, by L\'evy, $f(x)$.",
    }
    items.append(item(95, published=now, sightings=[Sighting(now.date(), 500, 9)], **maths))
    for n, (_, text) in enumerate(HOSTILE.items(), 96):
        wide = {"title": text, "abstract": text * 4, "authors": [text] * 15}
        items.append(item(n, published=now, sightings=[Sighting(now.date(), 300 + n, 2)], **wide))
    long = "Donaudampfschifffahrtsgesellschaft" * 8
    items.append(item(120, title=long, abstract=long * 3, authors=[long[:300]], published=now))
    take(items)
    teasers()
    people()


def teasers() -> None:
    """Pictures of two papers in three, as they are after they were fetched."""
    import io

    from PIL import Image

    from paperlab.core.files import write_atomically
    from paperlab.site.store import teasers
    from paperlab.site.store.models import Paper, Teaser

    out = io.BytesIO()
    Image.effect_noise((400, 216), 20).save(out, "PNG")
    small = teasers.small(out.getvalue())
    teasers.folder().mkdir(mode=0o700, exist_ok=True)
    for key in Paper.objects.exclude(sightings=None).values_list("pk", flat=True):
        if key % 3:
            file = f"{key}-{key:016x}.webp"
            write_atomically(teasers.folder() / file, small)
            Teaser.objects.create(paper_id=key, file=file)


def people() -> None:
    """What the reader at this machine has: a comment, a collection, interests, a wish, two runs."""
    from django.contrib.auth.models import User

    from paperlab.core.methods import methods
    from paperlab.site.people import actions, moderation, who
    from paperlab.site.runs import queue
    from paperlab.site.runs.models import Beat
    from paperlab.site.store.models import Paper

    reader = User.objects.get_or_create(username=who.HERE)[0]
    other = User.objects.create(username="other@example.org", first_name="Ada L. <b>" + "Long" * 7)
    paper, long = Paper.objects.get(arxiv="2401.00095"), "Donaudampfschifffahrtsgesellschaft" * 6
    actions.comment(reader, paper, f"**So** it is: `{long}`\n\n> {long}\n\n- one\n- two\n\n```\n{long}\n```", "1")
    said = actions.comment(other, paper, f"<script>alert(1)</script> {long} https://example.org/{long}", "2")
    third = User.objects.create(username="third@example.org")
    moderation.report(third, said, "abuse", f"<b>See this</b>: {long}")
    moderation.close(reader, third, True, moderation.told("spam", long))
    kept = actions.collect(reader, f"To read {long[:60]}", f"A note on {long}")
    actions.keep(kept, paper, True, f"Why: {long}", f"sparse, {long[:40]}")
    actions.share(kept, True)
    actions.keep(kept, Paper.objects.get(arxiv="2401.00120"), True)
    written(reader, other, paper)
    for kind, value in (("family", "quantization"), ("author", long), ("search", f"q={long}&code=1")):
        actions.follow(reader, kind, value, True)
    actions.submit(reader, "2405.00009")
    queue.ask(methods()["easyquant"], {"claim": "nearly-lossless"})
    run = queue.ask(methods()["baq"], {})
    arms = {f"{long[:40]} bits={n}": ["scored" if n < 30 else "blocks", 8, 8 if n < 30 else 40] for n in range(40)}
    run.state, run.starts, run.started, run.log = "running", 1, datetime.now(UTC), "a line of the log\n" * 200
    run.progress = {
        "stage": "lm_compress on smollm2-135m, quick", "arms": arms, "waiting": ["round-to-nearest(bits=2)"],
        "before": {"lm_compress on abstracts-lm, quick": arms}, "ends": datetime.now(UTC).timestamp() + 50_000,
    }  # fmt: skip
    run.save()
    Beat.objects.create(name="a worker elsewhere", at=datetime.now(UTC) + timedelta(days=1))


def written(reader: Any, other: Any, paper: Any) -> None:
    """Two groups (one that the reader leads, one whose name is hidden), meetings, authors' replies in every state."""
    from datetime import date

    from paperlab.site.groups import actions as groups
    from paperlab.site.groups.models import Group, Meeting
    from paperlab.site.people import actions, moderation
    from paperlab.site.replies.models import Reply
    from paperlab.site.store.models import Paper

    long = "Donaudampfschifffahrtsgesellschaft" * 6
    lab = groups.found(reader, f"The lab <b> {long}"[:110], f"**Thursdays**, in {long}\n\n- one\n- two")
    groups.join(lab, other)
    groups.change(lab, reader, lab.name, lab.about, True)
    for n, day in enumerate((date(2020, 1, 2), date(2099, 1, 1), date(2099, 2, 1))):
        notes = f"Read `{long}` and **section {n}**\n\n> {long}"
        groups.meet(lab, (reader, other, other)[n], str(day), "2401.00095", f"Ada {long}"[:80], notes)
    moderation.hide(reader, Meeting.objects.get(day=date(2099, 2, 1)), True, "Spam or advertising")
    kept = actions.collect(other, f"Their list {long[:60]}", f"A note on {long}")
    actions.keep(kept, paper, True, f"Why: {long}", f"sparse, {long[:40]}")
    groups.share(lab, other, kept.pk, True)
    groups.share(lab, reader, reader.collection_set.get().pk, True)
    groups.join(groups.found(other, "A name to hide", "about it"), reader)
    moderation.hide(reader, Group.objects.get(name="A name to hide"), True, "Spam or advertising")
    ours = Paper.objects.get(slug="easyquant")
    proved = {"proof": "code", "source": f"https://github.com/{long[:60]}/x"}
    for claim, state, one in (
        ("", "shown", other), ("easyquant:better-than-rtn", "shown", other), ("", "unproved", reader),
        ("easyquant:better-than-rtn", "waiting", reader), ("easyquant:nearly-lossless", "refused", other),
    ):  # fmt: skip
        said = {"body": f"Use *128* groups: {long}\n\n`{long}`", "name": f"Josiah {long}"[:40], "claim": claim}
        Reply.objects.create(user=one, paper=ours, state=state, **said, **(proved if state != "unproved" else {}))
    moderation.report(reader, Reply.objects.filter(user=other).first(), "false", f"Not an author: {long}")


def broken(request: object) -> None:
    """A page that fails."""
    raise RuntimeError("as the test wants it")


def main(port: int) -> None:
    """Fill and serve."""
    from paperlab.site.start import start

    start()
    fill()
    from paperlab.site.search import index

    index.refresh(meaning=False)
    import uvicorn
    from django.urls import path

    from paperlab.site import urls

    urls.urlpatterns.insert(0, path("broken", broken))
    from paperlab.site.asgi import application

    uvicorn.run(application, port=port, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
