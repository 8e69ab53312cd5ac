"""What several requests do at the same moment, in transactions of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor


def test_the_same_words_sent_many_times_at_once_are_one_comment(rates: None) -> None:
    """Real transactions, each thread with a connection of its own."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections

    from paperlab.site.people import actions
    from paperlab.site.people.models import Comment
    from paperlab.site.store.models import Paper

    writer = User.objects.create(username="quick@example.org")
    paper = Paper.objects.create(arxiv="2401.00009", title="Paper 9", title_key="9")
    together = threading.Barrier(6)

    def post(_: int) -> str:
        together.wait(10)
        try:
            actions.comment(writer, paper, "the same words", "")
            return "posted"
        except actions.Refused:
            return "refused"
        finally:
            connections.close_all()

    try:
        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(post, range(6))) == ["posted"] + ["refused"] * 5
        assert Comment.objects.count() == 1
    finally:
        call_command("flush", interactive=False, verbosity=0)
