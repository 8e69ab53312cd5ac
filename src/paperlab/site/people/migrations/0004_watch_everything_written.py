"""What is reported, hidden and decided on may be anything that people write, not comments alone."""

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def fill(apps: Any, editor: Any) -> None:
    """Reports and decisions that there are, are about comments."""
    rows = [apps.get_model("people", name).objects.exclude(comment=None) for name in ("Report", "Decision")]
    if any(some.exists() for some in rows):
        types = apps.get_model("contenttypes", "ContentType").objects
        comment = types.get_or_create(app_label="people", model="comment")[0]
        for some in rows:
            some.update(what=comment, which=models.F("comment"))


def _what(delete: Any, null: bool) -> Any:
    return models.ForeignKey(null=null, on_delete=delete, related_name="+", to="contenttypes.contenttype")


class Migration(migrations.Migration):
    dependencies = [
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("people", "0003_foryou"),
    ]

    operations = [
        migrations.AddField("collection", "hidden", models.BooleanField(default=False)),
        migrations.AddField("kept", "hidden", models.BooleanField(default=False)),
        migrations.AddField(
            "kept",
            "user",
            models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField("report", "what", _what(django.db.models.deletion.CASCADE, True)),
        migrations.AddField("report", "which", models.BigIntegerField(null=True)),
        migrations.AddField("decision", "what", _what(django.db.models.deletion.SET_NULL, True)),
        migrations.AddField("decision", "which", models.BigIntegerField(null=True)),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.RemoveConstraint("report", "reported_once"),
        migrations.RemoveField("report", "comment"),
        migrations.RemoveField("decision", "comment"),
        migrations.AlterField("report", "what", _what(django.db.models.deletion.CASCADE, False)),
        migrations.AlterField("report", "which", models.BigIntegerField()),
        migrations.AddConstraint(
            "report", models.UniqueConstraint(fields=("what", "which", "user"), name="reported_once")
        ),
        migrations.AddIndex("decision", models.Index(fields=["what", "which"], name="decided_on")),
    ]
