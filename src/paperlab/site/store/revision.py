"""The number that rises with every change of a paper: what was made of the papers holds while it stays."""

from paperlab.site.store.models import Counter
from paperlab.site.store.prepared import Prepared

_REVISION = Prepared(lambda: Counter.objects.filter(name="revision").order_by().values_list("value"))


def revision() -> int:
    """The number now; 0 before the first paper."""
    return int(next(iter(_REVISION.column()), 0))
