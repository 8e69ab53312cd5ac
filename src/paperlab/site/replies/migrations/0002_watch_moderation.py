"""Replies can be hidden by a moderator."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("replies", "0001_initial")]

    operations = [migrations.AddField("reply", "hidden", models.BooleanField(default=False))]
