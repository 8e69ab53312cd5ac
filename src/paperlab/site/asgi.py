"""The ASGI application that `paperlab up` serves."""

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from paperlab.site.bounds import Bounds
from paperlab.site.start import configure, start

configure()
for _database in settings.DATABASES.values():
    if _database["ENGINE"].endswith("postgresql"):
        # Each request has its own thread here, so a kept connection would never be met again: they are pooled instead.
        _database["CONN_MAX_AGE"] = 0
        _database["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 16, "timeout": 10}
start()
application = Bounds(ASGIHandler())
