"""Prepare the site before use: settings, tables, the bundled catalogue."""

import os

from paperlab.core.home import home, make_private


class StoreError(RuntimeError):
    """The database cannot be used; the message says why and what to do."""


def configure() -> None:
    """Load Django with the site's settings; the database is not touched. Calling it again does nothing."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paperlab.site.settings")
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()


def start() -> None:
    """Configure, bring the tables up to date, load the bundled papers that are new. Cheap when nothing is to do.

    Raises StoreError where the database refuses, SettingError on a bad setting, HomeError on a folder of others.
    """
    make_private(home())
    configure()
    import filelock
    from django.core.management import call_command
    from django.db import DatabaseError, connection
    from django.db.migrations.executor import MigrationExecutor

    from paperlab.site.store import bundled

    try:
        # One process at a time: a second one that connects while the first makes the file finds it locked at once.
        with filelock.FileLock(home() / "migrate.lock", timeout=300):
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                call_command("migrate", interactive=False, verbosity=0)
            bundled.load()
    except filelock.Timeout as error:
        raise StoreError(f"{error.lock_file}: another paperlab has been starting for 5 minutes; stop it") from error
    except DatabaseError as error:
        message = " ".join(str(error).split())
        raise StoreError(
            f"the database cannot be used: {message}; is PAPERLAB_DATABASE right, the disk writable?"
        ) from error
