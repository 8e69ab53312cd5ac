"""The ASGI application that `paperlab up` serves."""

from django.conf import settings

from paperlab.site.bounds import Bounds
from paperlab.site.start import configure, start
from paperlab.site.threads import Handler

configure()
for _database in settings.DATABASES.values():
    if _database["ENGINE"].endswith("postgresql"):
        # More threads than connections: these are pooled.
        _database["CONN_MAX_AGE"] = 0
        _database["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 16, "timeout": 10}
    else:
        _database["CONN_MAX_AGE"] = 60  # seconds; its thread is kept
start()
application = Bounds(Handler())
