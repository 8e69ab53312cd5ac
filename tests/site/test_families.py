"""Families of papers that are not bundled: guessed, corrected, and found by filters and followed families."""

from datetime import date
from typing import Any

import pytest
from api_papers import item, seen, take

pytestmark = pytest.mark.usefixtures("store")

QUANTIZED = {
    "title": "Four-bit post-training quantization of large language models",
    "abstract": "We quantize weights and activations of large language models to 4 bits after training. Our "
    "post-training quantization rounds weights in groups and keeps outliers, with a calibration set and no retraining.",
}
FARMING = {"title": "Soil moisture and barley yield", "abstract": "A field study of barley in dry summers. " * 5}
DAY = date(2024, 5, 6)


def arrive(number: int, **facts: Any) -> Any:
    from paperlab.site.store.models import Paper

    take([item(number, sightings=seen(DAY, 5), **facts)])
    return Paper.objects.get(arxiv=f"2401.{number:05d}")


def page(path: str, **options: Any) -> str:
    from django.test import Client

    return Client(SERVER_NAME="localhost").get(path, **options).content.decode()


def test_a_paper_that_is_sure_gets_a_family_and_others_get_none() -> None:
    from paperlab.site.search import families

    sure, unsure = arrive(1, **QUANTIZED), arrive(2, **FARMING)
    assert families.assign() == 1
    sure.refresh_from_db()
    unsure.refresh_from_db()
    assert (sure.family, unsure.family) == ("quantization", "")
    by, confidence = families.origin(sure)
    assert by == families.GUESSED
    assert float(confidence) >= families.CONFIDENT
    assert families.assign() == 0  # what it wrote changes nothing again
    assert "predicted from its text" in page("/papers/2401.00001")
    assert "guessed" not in page("/papers/2401.00002")


def test_filters_feeds_and_followed_families_find_it() -> None:
    from paperlab.site.digest.choose import Issue
    from paperlab.site.search import families, index
    from paperlab.site.search.query import read
    from paperlab.site.search.rank import search

    paper = arrive(1, **QUANTIZED)
    arrive(2, **FARMING)
    index.refresh(meaning=False)
    assert search(read({"family": ["quantization"]})).hits == ()
    families.assign()
    assert [hit.paper for hit in search(read({"family": ["quantization"]})).hits] == [paper.pk]
    (section,) = Issue(DAY, "day", "http://localhost").sections([("family", "quantization")])
    assert [one.key for one in section.items] == [("paper", paper.pk)]
    assert "Four-bit post-training quantization" in section.items[0].text


def test_a_corrected_family_is_never_overwritten() -> None:
    from django.test import Client

    from paperlab.site.search import families

    paper = arrive(1, **QUANTIZED)
    families.assign()
    mine = Client(SERVER_NAME="localhost")
    assert 'action="/papers/2401.00001/family"' in mine.get("/papers/2401.00001").content.decode()
    answer = mine.post("/papers/2401.00001/family", {"family": "low-rank"}, follow=True)
    assert (
        "set by the site&#x27;s owner" in answer.content.decode()
        or "set by the site's owner" in answer.content.decode()
    )
    families._learnt.clear()
    take([item(1, abstract=QUANTIZED["abstract"] + " Again.", title=QUANTIZED["title"], as_of="2025-01-01")])
    families.assign()
    paper.refresh_from_db()
    assert paper.family == "low-rank"
    assert mine.post("/papers/2401.00001/family", {"family": ""}).status_code == 302  # none, for good
    families.assign()
    paper.refresh_from_db()
    assert paper.family == ""
    assert mine.post("/papers/2401.00001/family", {"family": "nonsense"}).status_code == 400
    assert mine.get("/papers/2401.00001/family").status_code == 405


def test_a_stranger_sees_no_form_and_corrects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    paper = arrive(1, **QUANTIZED)
    stranger = Client(SERVER_NAME="localhost")
    assert "/family" not in stranger.get("/papers/2401.00001").content.decode()
    stranger.force_login(User.objects.create_user("somebody"))
    assert stranger.post("/papers/2401.00001/family", {"family": "loss"}, secure=True).status_code == 403
    paper.refresh_from_db()
    assert paper.family == ""


def test_the_bundled_keep_theirs_and_a_correction_outlives_a_new_catalogue() -> None:
    from paperlab.site.search import families
    from paperlab.site.store import bundled
    from paperlab.site.store.models import Harvest, Paper

    bundled.load()
    before = dict(Paper.objects.values_list("slug", "family"))
    assert families.assign() == 0
    families.correct(Paper.objects.get(slug="easyquant"), "theory")
    Harvest.objects.filter(key=bundled.KEY).delete()
    bundled.load()
    families.assign()
    assert dict(Paper.objects.values_list("slug", "family")) == before | {"easyquant": "theory"}


def test_the_admin_corrects_too() -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    from paperlab.site.search import families

    paper = arrive(1, **QUANTIZED)
    families.assign()
    admin = Client(SERVER_NAME="localhost")
    admin.force_login(User.objects.create_superuser("root"))
    path = f"/admin/catalogue/paper/{paper.pk}/change/"
    written = admin.get(path).content.decode()
    assert '<option value="quantization" selected>' in written
    told = {"title": paper.title, "family": "pruning", "categories": "[]", "authors": "[]", "extra": "{}"}
    told |= {"versions": "[]", "links": "[]", "keywords": "[]", "arxiv": paper.arxiv}
    answer = admin.post(path, told)
    assert answer.status_code == 302, answer.content.decode()
    families.assign()
    paper.refresh_from_db()
    assert (paper.family, families.origin(paper)[0]) == ("pruning", families.PERSON)


def test_papers_wait_for_their_vectors(meaning: Any) -> None:
    from paperlab.site.search import families, index
    from paperlab.site.store import bundled
    from paperlab.site.store.models import Paper

    bundled.load()
    index.refresh()
    families.assign()
    arrive(1, **QUANTIZED)
    index.refresh(meaning=False)
    assert families.assign() == 0
    index.refresh()
    families.assign()
    assert families._model(index.engine(), index.engine().encoder())[0].by_vector is not None
    assert Paper.objects.get(arxiv="2401.00001").family in ("", "quantization")


def test_categories_rule_families_out() -> None:
    from paperlab.site.search import families, index

    model, _ = families._model(index.engine(), None)
    title, text = "Text-to-speech synthesis with voice cloning", "We synthesise expressive speech from text. " * 8
    assert model.guess(title, text, None).family == "tts"
    assert model.guess(title, text, None, ["cs.SD"]).family == "tts"
    assert model.guess(title, text, None, ["cs.CL", "math.CO"]).family != "tts"


def test_a_confidence_is_the_share_that_is_right() -> None:
    from paperlab.site.search import families, index

    model, _ = families._model(index.engine(), None)
    labels = families.examples()[2]
    sure = model.confidence(model.left_out)
    right = model.left_out.argmax(1) == labels
    for low, high in ((0.0, 0.4), (0.4, 0.7), (0.7, 1.0)):
        some = (sure >= low) & (sure < high)
        assert abs(right[some].mean() - sure[some].mean()) < 0.08
    given = (sure >= families.CONFIDENT) & (model.left_out.argmax(1) > 0)
    assert right[given].mean() > 0.75
    assert given.mean() > 0.35
