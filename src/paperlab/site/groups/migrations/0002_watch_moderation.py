"""Groups and meetings can be hidden; who wrote them is kept. Of the groups there are, their first leader did."""

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def fill(apps: Any, editor: Any) -> None:
    """The writers of groups."""
    leaders = apps.get_model("groups", "Member").objects.filter(group=models.OuterRef("pk"), leads=True)
    first = leaders.order_by("joined", "pk").values("user")[:1]
    apps.get_model("groups", "Group").objects.update(user=models.Subquery(first))


def _writer() -> Any:
    return models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL)


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("groups", "0001_initial"),
    ]

    operations = [
        migrations.AddField("group", "hidden", models.BooleanField(default=False)),
        migrations.AddField("group", "user", _writer()),
        migrations.AddField("meeting", "hidden", models.BooleanField(default=False)),
        migrations.AddField("meeting", "user", _writer()),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
