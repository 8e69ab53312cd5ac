"""The worker's job: fetch the papers that people asked for, one at a time, from arXiv alone."""

from paperlab.site import alive
from paperlab.site.people.models import Submission
from paperlab.site.store.models import Paper

TRIES = 5


def fetch() -> bool:
    """Fetch one; whether there was one. Raises what the source raises, after storing it as the reason."""
    from paperlab.site.store.harvest import harvest
    from paperlab.site.store.item import SourceError
    from paperlab.site.store.sources import named

    row = Submission.objects.filter(state="waiting").order_by("tries", "pk").first()
    if row is None:
        return False
    rows = Submission.objects.filter(pk=row.pk)
    if not Paper.objects.filter(arxiv=row.arxiv).exists():
        try:
            harvest(named.source(f"arxiv:{row.arxiv}"), alive.sign)
        except SourceError as error:
            over = row.tries + 1 >= TRIES
            rows.update(tries=row.tries + 1, reason=str(error)[:500], state="failed" if over else "waiting")
            raise
    here = Paper.objects.filter(arxiv=row.arxiv).exists()
    rows.update(state="here" if here else "unknown", reason="" if here else "arXiv knows no such paper")
    return True
