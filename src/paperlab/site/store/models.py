"""The store's tables. Lists that are read as one are JSON; what is asked for by value is a column or a table."""

from django.db import models


class Paper(models.Model):
    """One paper, ours or ingested or both, joined by arXiv id or by title.

    slug, family, kind, method, summary: from the bundled catalogue; empty for papers that are only ingested.
    origins: {field: [source, as_of]}, which source set it last and when; decides what a later import may replace.
    revision: rises with every change, over all papers, in the order of commits: an index that has read up to N
    asks for revision > N.
    """

    slug = models.CharField(max_length=120, unique=True, null=True, blank=True)
    arxiv = models.CharField(max_length=40, unique=True, null=True, blank=True)
    title = models.TextField()
    title_key = models.CharField(max_length=32, db_index=True)
    abstract = models.TextField(blank=True, default="")
    authors = models.JSONField(default=list, blank=True)
    author_count = models.PositiveIntegerField(null=True, blank=True)
    categories = models.JSONField(default=list, blank=True)

    published = models.DateField(null=True, blank=True, db_index=True)
    published_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(null=True, blank=True)
    year = models.PositiveSmallIntegerField(null=True, blank=True)
    version = models.PositiveSmallIntegerField(null=True, blank=True)
    versions = models.JSONField(default=list, blank=True)
    withdrawn = models.BooleanField(default=False)

    code = models.TextField(blank=True, default="")
    links = models.JSONField(default=list, blank=True)
    upvotes = models.PositiveIntegerField(null=True, blank=True)
    comments = models.PositiveIntegerField(null=True, blank=True)
    stars = models.PositiveIntegerField(null=True, blank=True)
    upstream_summary = models.TextField(blank=True, default="")
    keywords = models.JSONField(default=list, blank=True)
    extra = models.JSONField(default=dict, blank=True)

    family = models.CharField(max_length=40, blank=True, default="", db_index=True)
    kind = models.CharField(max_length=20, blank=True, default="")
    method = models.TextField(blank=True, default="")
    summary = models.TextField(blank=True, default="")

    origins = models.JSONField(default=dict, blank=True)
    revision = models.PositiveBigIntegerField(default=0, db_index=True)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first where nothing else is asked."""

        ordering = ("-published", "-id")
        indexes = (models.Index(fields=("year", "published"), name="paper_by_year"),)

    def __str__(self) -> str:
        return f"{self.slug or self.arxiv or self.pk}: {self.title[:80]}"


class Alias(models.Model):
    """The key of another title of a paper: before it was renamed, or as another site spells it."""

    key = models.CharField(max_length=32, db_index=True)
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="aliases")

    class Meta:
        """One per paper and key."""

        constraints = (models.UniqueConstraint(fields=("key", "paper"), name="alias_once"),)

    def __str__(self) -> str:
        return f"{self.paper_id}: {self.key}"


class Sighting(models.Model):
    """A paper in a daily list, with the votes and comments that the list showed for that day."""

    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="sightings")
    source = models.CharField(max_length=40)
    day = models.DateField(db_index=True)
    upvotes = models.PositiveIntegerField(null=True, blank=True)
    comments = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        """One per paper, source and day."""

        constraints = (models.UniqueConstraint(fields=("paper", "source", "day"), name="sighted_once_a_day"),)

    def __str__(self) -> str:
        return f"{self.day} {self.source}: {self.paper_id}"


class Ranking(models.Model):
    """A list whose order means something: a saved page, a day of Daily Papers."""

    key = models.CharField(max_length=120, unique=True)
    source = models.CharField(max_length=40)
    name = models.TextField()
    day = models.DateField(null=True, blank=True, db_index=True)
    shown = models.JSONField(default=dict, blank=True)
    added = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Entry(models.Model):
    """One place of a list, from 1. shown: what the list printed there, as it printed it."""

    ranking = models.ForeignKey(Ranking, on_delete=models.CASCADE, related_name="entries")
    rank = models.PositiveIntegerField()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="entries")
    shown = models.JSONField(default=dict, blank=True)

    class Meta:
        """In the list's order."""

        ordering = ("ranking", "rank")
        constraints = (models.UniqueConstraint(fields=("ranking", "rank"), name="one_paper_a_rank"),)

    def __str__(self) -> str:
        return f"{self.rank}. {self.paper_id}"


class SetAside(models.Model):
    """An item of a source that was rejected, with the reason. key: the same item is kept once."""

    key = models.CharField(max_length=32, unique=True)
    source = models.CharField(max_length=40)
    where = models.TextField()
    reason = models.TextField()
    content = models.TextField(blank=True)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        """As Django's admin names it."""

        verbose_name = verbose_name_plural = "set aside"

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Harvest(models.Model):
    """How far the reading of a source has come. resume: what the source needs to go on; empty when it is through.

    reached: what a whole reading leaves for the next one, e.g. the date from which to ask.
    """

    key = models.CharField(max_length=200, unique=True)
    source = models.CharField(max_length=40)
    resume = models.JSONField(default=dict, blank=True)
    reached = models.JSONField(default=dict, blank=True)
    counts = models.JSONField(default=dict, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.key


class Fetching(models.Model):
    """A source that the worker reads by itself, and how that has gone. every: seconds between two readings.

    counts: what the last reading that came to its end brought; error: why the last one did not, "" if it did; failures:
    in a row. holder: the worker that reads it now.
    """

    name = models.CharField(max_length=200, unique=True)
    every = models.PositiveIntegerField()
    next_run = models.DateTimeField()
    last_tried = models.DateTimeField(null=True, blank=True)
    last_success = models.DateTimeField(null=True, blank=True)
    counts = models.JSONField(default=dict, blank=True)
    failures = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="")
    holder = models.CharField(max_length=300, blank=True, default="")

    class Meta:
        """As Django's admin names it."""

        verbose_name = verbose_name_plural = "automatic fetches"

    def __str__(self) -> str:
        return self.name


class Teaser(models.Model):
    """The small picture on a paper's cards. addresses: where it can be read, the best first; file: its name in the data
    folder, "" while there is none; next_try: None where it is there or given up; error: why there is none."""

    paper = models.OneToOneField(Paper, on_delete=models.CASCADE, related_name="teaser")
    addresses = models.JSONField(default=list)
    file = models.CharField(max_length=60, blank=True, default="")
    failures = models.PositiveSmallIntegerField(default=0)
    next_try = models.DateTimeField(null=True, blank=True, db_index=True)
    error = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"{self.paper_id}: {self.file or self.error}"


class Hang(models.Model):
    """A job of the worker that hung, so that the worker was replaced. times: in a row; at: the last time."""

    name = models.CharField(max_length=200, primary_key=True)
    times = models.PositiveIntegerField(default=1)
    at = models.DateTimeField()

    class Meta:
        """As Django's admin names it."""

        ordering = ("name",)
        verbose_name, verbose_name_plural = "job that hung", "jobs that hung"

    def __str__(self) -> str:
        return self.name


class Counter(models.Model):
    """A number that only rises. Writers lock its row first, which also puts them in one line on PostgreSQL."""

    name = models.CharField(max_length=40, primary_key=True)
    value = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} = {self.value}"
