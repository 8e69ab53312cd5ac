"""A database that version 0.1.0 wrote is brought up to date and used: every row read and changed, none lost."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

OLD = Path(__file__).with_name("data") / "store_of_version_0_1_0.sql"
READ = """
import json
from paperlab.site.start import start
start()
from django.core.management import call_command
call_command("makemigrations", check=True, dry_run=True, verbosity=0)  # models and migrations agree
from django.apps import apps
from paperlab.site.store.models import Paper
from paperlab.site.people.models import Comment, Submission, Vote
from paperlab.site.digest.models import Delivery, Subscription
from paperlab.site.runs.models import Run
from paperlab.site.runs.views import as_json
ours = ("catalogue", "people", "digest", "runs")
rows = {f"{m._meta.label_lower}": m.objects.count() for name in ours for m in apps.get_app_config(name).get_models()}
asked = Submission.objects.get()
comment = Comment.objects.get()
submission = [asked.state, asked.reason]
Submission.objects.update(reason="again")
only = Paper.objects.get(arxiv="2401.00001")
print(json.dumps({
    "rows": rows, "submission": submission, "comments": [c.body for c in only.site_comments.all()],
    "votes": only.votes.count(), "run": as_json(Run.objects.get())["progress"],
    "gptq": [Paper.objects.get(slug="gptq").pk, Paper.objects.get(slug="gptq").kept_set.count()],
}))
"""


def schema(file: Path) -> list[tuple[str, ...]]:
    base = sqlite3.connect(file)
    tables = base.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    return [*tables, *base.execute("SELECT app, name, applied FROM django_migrations ORDER BY id")]


def test_a_database_of_the_first_version_is_used_with_all_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "paperlab.sqlite3"
    with sqlite3.connect(file) as base:
        base.executescript(OLD.read_text(encoding="utf-8"))
    base.close()
    before = {row[1] for row in schema(file) if row[0] == "table"}
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path)}
    environment.pop("PAPERLAB_DATABASE", None)
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert before <= {row[1] for row in schema(file) if row[0] == "table"}
    found = json.loads(done.stdout)
    assert found["rows"] | {"catalogue.paper": 0, "catalogue.alias": 0} == {
        "catalogue.paper": 0, "catalogue.alias": 0, "catalogue.sighting": 1, "catalogue.ranking": 1,
        "catalogue.entry": 1, "catalogue.setaside": 1, "catalogue.harvest": 2, "catalogue.counter": 1,
        "people.signin": 1, "people.vote": 1, "people.comment": 1, "people.collection": 1, "people.kept": 1,
        "people.tag": 0, "people.choice": 0, "people.read": 1, "people.follow": 1, "people.submission": 1, "digest.subscription": 0, "digest.delivery": 0,
        "runs.run": 1, "runs.beat": 1,
    }  # fmt: skip
    assert found["rows"]["catalogue.paper"] > 300  # the bundled papers came in, the old row of one of them stayed
    assert found["gptq"] == [1, 1]
    assert (found["comments"], found["votes"]) == (["an old comment"], 1)
    assert found["submission"] == ["failed", "arXiv did not answer"]
    assert found["run"] == {"stage": "quick_lm, quick", "arms": {"gptq": ["scored", 4, 8]}}
    assert sqlite3.connect(file).execute("SELECT said FROM people_submission").fetchall() == [("again",)]


def test_a_new_database_has_the_tables_of_an_old_one(tmp_path: Path) -> None:
    """With the same columns, which a migrated table may have in another order, and the same indexes."""
    made = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "paperlab.sqlite3"
        if name == "old":
            with sqlite3.connect(file) as base:
                base.executescript(OLD.read_text(encoding="utf-8"))
            base.close()
        environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path / name)}
        environment.pop("PAPERLAB_DATABASE", None)
        code = "from paperlab.site.start import start; start()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        base = sqlite3.connect(file)
        tables = [row[1] for row in schema(file) if row[0] == "table"]
        columns = {table: sorted(row[1:] for row in base.execute(f'PRAGMA table_info("{table}")')) for table in tables}
        indexes = sorted(row[1:] for row in schema(file) if row[0] == "index")
        made.append((columns, indexes))
    assert made[0] == made[1]
