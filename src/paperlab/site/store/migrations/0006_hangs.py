"""Jobs of the worker that hung; who reads a source now."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalogue", "0005_teaser_pictures")]

    operations = [
        migrations.AddField("fetching", "holder", models.CharField(blank=True, default="", max_length=300)),
        migrations.CreateModel(
            name="Hang",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("times", models.PositiveIntegerField(default=1)),
                ("at", models.DateTimeField()),
            ],
            options={"verbose_name": "job that hung", "verbose_name_plural": "jobs that hung", "ordering": ("name",)},
        ),
    ]
