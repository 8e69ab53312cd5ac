"""A database that version 0.1.0 wrote is used as it is: nothing to migrate, every row read and changed."""

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
    "votes": only.votes.count(),
    "counts": [[str(one.day), str(one.counts)] for one in (*Vote.objects.all(), *Comment.objects.all())],
    "run": as_json(Run.objects.get())["progress"],
    "gptq": [Paper.objects.get(slug="gptq").pk, Paper.objects.get(slug="gptq").kept_set.count()],
}))
"""


def schema(file: Path) -> list[tuple[str, ...]]:
    base = sqlite3.connect(file)
    tables = base.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    return [*tables, *base.execute("SELECT app, name, applied FROM django_migrations ORDER BY id")]


def test_a_database_of_the_first_version_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "paperlab.sqlite3"
    with sqlite3.connect(file) as base:
        base.executescript(OLD.read_text(encoding="utf-8"))
    base.close()
    before = schema(file)
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path)}
    environment.pop("PAPERLAB_DATABASE", None)
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {row[:3] for row in before} <= {row[:3] for row in schema(file)}  # later tables come, none of the old goes
    found = json.loads(done.stdout)
    assert (found["rows"] | {"catalogue.paper": 0, "catalogue.alias": 0}).items() >= {
        "catalogue.paper": 0, "catalogue.alias": 0, "catalogue.sighting": 1, "catalogue.ranking": 1,
        "catalogue.entry": 1, "catalogue.setaside": 1, "catalogue.harvest": 2, "catalogue.counter": 1,
        "people.signin": 1, "people.vote": 1, "people.comment": 1, "people.collection": 1, "people.kept": 1,
        "people.read": 1, "people.follow": 1, "people.submission": 1, "digest.subscription": 0, "digest.delivery": 0,
        "runs.run": 1, "runs.beat": 1,
    }.items()  # fmt: skip
    assert found["rows"]["catalogue.paper"] > 300  # the bundled papers came in, the old row of one of them stayed
    assert found["gptq"] == [1, 1]
    assert (found["comments"], found["votes"]) == (["an old comment"], 1)
    assert found["counts"] == [["2024-01-03", "2024-01-03"]] * 2  # not a day of the migration
    assert found["submission"] == ["failed", "arXiv did not answer"]
    assert found["run"] == {"stage": "quick_lm, quick", "arms": {"gptq": ["scored", 4, 8]}}
    assert sqlite3.connect(file).execute("SELECT said FROM people_submission").fetchall() == [("again",)]


def test_a_new_database_has_the_tables_of_an_old_one_brought_up_to_date(tmp_path: Path) -> None:
    files = [tmp_path / name / "paperlab.sqlite3" for name in ("old", "new")]
    code = "from paperlab.site.start import start; start()"
    for file in files:
        file.parent.mkdir()
        if file.parent.name == "old":
            with sqlite3.connect(file) as base:
                base.executescript(OLD.read_text(encoding="utf-8"))
            base.close()
        environment = {**os.environ, "PAPERLAB_HOME": str(file.parent)}
        environment.pop("PAPERLAB_DATABASE", None)
        told = [sys.executable, "-c", code]
        done = subprocess.run(told, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    old, new = ([row for row in schema(file) if len(row) == 4] for file in files)
    assert new == old


REPORTS = """
from paperlab.site.start import configure
configure()
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
call_command("migrate", verbosity=0)
before = [("people", "0003_foryou"), ("groups", "0001_initial"), ("replies", "0001_initial")]
MigrationExecutor(connection).migrate(before)
known = MigrationExecutor(connection).loader.project_state([*before, ("catalogue", "0004_arrive_fetching")])
old = known.apps.get_model
user = old("auth", "User").objects.create(username="a@example.org")
paper = old("catalogue", "Paper").objects.create(arxiv="2401.00001", title="One", title_key="one")
comment = old("people", "Comment").objects.create(
    user=user, paper=paper, body="said", once="x", day="2026-01-01", hidden=True
)
old("people", "Report").objects.create(user=user, comment=comment, reason="spam")
for about in (comment, None):
    old("people", "Decision").objects.create(by_name="account 1", act="hide", about="it", comment=about, reason="why")
group = old("groups", "Group").objects.create(name="Lab")
old("groups", "Member").objects.create(group=group, user=user, leads=True)
call_command("migrate", verbosity=0)
from paperlab.site.groups.models import Group
from paperlab.site.people.models import Comment, Decision, Report
said = Comment.objects.get()
assert said.hidden
assert [one.reason for one in said.reports.all()] == ["spam"]
assert Report.objects.get().thing == said
assert sorted(str(one.thing) for one in Decision.objects.all()) == sorted([str(said), "None"])
assert Group.objects.get().user.username == "a@example.org"
said.delete()
assert not Report.objects.exists()
assert Decision.objects.count() == 2
"""


def test_reports_and_decisions_on_comments_stay(tmp_path: Path) -> None:
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path)}
    environment.pop("PAPERLAB_DATABASE", None)
    done = subprocess.run([sys.executable, "-c", REPORTS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
