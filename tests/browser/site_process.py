"""A site to look at: a server process on its own data folder, with daily lists, hostile papers and the bundled ones.

python site_process.py PORT
"""

import sys
from datetime import UTC, datetime, timedelta


def fill() -> None:
    """Papers of some days, in the ways that papers come."""
    from api_papers import HOSTILE, item, take

    from paperlab.site.catalogue.item import Sighting

    now = datetime.now(UTC)
    items = []
    for n in range(1, 90):
        day = now - timedelta(days=n // 40)
        sighted = [Sighting(day.date(), 400 - 4 * n, n % 7)]
        items.append(item(n, published=day, sightings=sighted))
    maths = {
        "title": r"Attention in $\mathcal{O}(n \log n)$ and $\ell_2$ space for $x_{i}^{2} \leq \sqrt{d}$",
        "abstract": r"We show $\sum_{i=1}^{n} \alpha_i = 1$ for \emph{every} head, 5\% better, at a cost of \$3. "
        r"$$\frac{\partial L}{\partial w} = 0$$ " + "It ends. " * 30,
    }
    items.append(item(95, published=now, sightings=[Sighting(now.date(), 500, 9)], **maths))
    for n, (_, text) in enumerate(HOSTILE.items(), 96):
        wide = {"title": text, "abstract": text * 4, "authors": [text] * 15}
        items.append(item(n, published=now, sightings=[Sighting(now.date(), 300 + n, 2)], **wide))
    long = "Donaudampfschifffahrtsgesellschaft" * 8
    items.append(item(120, title=long, abstract=long * 3, authors=[long[:300]], published=now))
    take(items)


def main(port: int) -> None:
    """Fill and serve."""
    from paperlab.site.start import start

    start()
    fill()
    from paperlab.site.search import index

    index.refresh(meaning=False)
    import uvicorn

    from paperlab.site.asgi import application

    uvicorn.run(application, port=port, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
