"""A recipe as a query string: there and back, and what anybody may type into an address."""

from __future__ import annotations

import pytest

from tests.ui import stories
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.spec import Choice, Range, fields
from vlmdefense_demo.survey import attacker, methods, usable
from vlmdefense_demo.ui.link import LONGEST, OWN, read_link, read_query, write_link
from vlmdefense_demo.ui.recipe import checked

CAPTIONS = {"cat": 1, "lion": 1}
FRESH = {
    "labels": ["cat", "dog", "lion"], "template": "a photo of a {}.", "model": "pocket",
    "attack": "pgd", "params": {"eps": 4, "steps": 10}, "goal": "wrong", "target": "", "truth": "",
    "seed": 0, "attacker": "unaware", "defenses": {"fare": {}},
}  # fmt: skip
FULL = {
    "labels": ["dog = puppy", "Katze & Kater", "50 % café+?#"], "template": "ein Foto: {}",
    "model": "pocket", "attack": "apgd_ce", "params": {"eps": 2, "steps": 33}, "goal": "label",
    "target": "Katze & Kater", "truth": "puppy", "seed": 7, "attacker": "aware",
    "defenses": {"rtpt": {"views": 8, "learning_rate": 0.0005}, "ttc": {"tau": 0.25}},
}  # fmt: skip


def read(query: str, **fresh):
    return read_link(read_query(query), FRESH | fresh, CAPTIONS)


def test_everything_a_recipe_says_comes_back():
    link = read(write_link(FULL, "lion"))
    assert link.left_out == ()
    assert link.picture == "lion"
    before, after = checked(FULL), link.recipe
    for part in (
        "labels",
        "template",
        "model",
        "attack",
        "goal",
        "target",
        "truth",
        "seed",
        "knows",
    ):
        assert getattr(after, part) == getattr(before, part), part
    assert dict(before.params).items() <= after.params.items()
    assert after.defenses["rtpt"]["views"] == 8
    assert after.defenses["rtpt"]["learning_rate"] == 0.0005
    assert after.defenses["ttc"]["tau"] == 0.25
    assert list(after.defenses) == ["rtpt", "ttc"]


def extreme(row, end):
    """Every parameter at one end of its range, and none at its default where it is a choice."""
    found = {}
    for f in fields(row.cls):
        if isinstance(f.domain, Range):
            found[f.name] = f.shown(getattr(f.domain, end))
        else:
            found[f.name] = f.domain.options[-1] if isinstance(f.domain, Choice) else not f.default
    if row.kind == "attack" and "eps" in found:
        found["eps"] = max(1, found["eps"])  # a ball without room is refused
    return found


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("id", [i for i, r in methods("attack").items() if attacker(r).interactive])
def test_every_parameter_of_an_attack_travels(id, end):
    row = methods("attack")[id]
    params, goal = extreme(row, end), attacker(row).needs or "wrong"
    target = "dog" if goal == "caption" else ""
    asked = FRESH | {"attack": id, "params": params, "goal": goal, "target": target}
    link = read(write_link(asked, ""))
    assert link.left_out == ()
    assert link.recipe.params == params
    assert (link.recipe.goal, link.recipe.target) == (goal, target)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("id", usable("pocket"))
def test_every_parameter_of_a_defence_travels(id, end):
    values = extreme(methods("defense")[id], end)
    link = read(write_link(FRESH | {"defenses": {id: values}}, ""))
    assert link.left_out == ()
    assert link.recipe.defenses == {id: values}


def test_what_a_link_leaves_open_is_as_on_a_fresh_page():
    link = read("?v=1")
    assert link.recipe.labels == "cat, dog, lion"
    assert link.recipe.params["steps"] == 10
    assert list(link.recipe.defenses) == ["fare"]
    assert link.picture == ""
    assert read("?v=1&defenses=").recipe.defenses == {}
    assert read("?v=1&attack=fgsm").recipe.params["eps"] == 4


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("labels=cat", "expected at least 2 different ones, got 1"),
        ("labels=" + "x" * 81 + ",dog", "A label has 81 characters"),
        ("template=no+place", "exactly one {}"),
        ("attack=nope", "Unknown attack 'nope'"),
        ("attack=autoattack", "takes minutes a picture"),
        ("attack=<script>alert(1)</script>", "Unknown attack"),
        ("pgd.eps=500", "eps=500 is outside [0, 128] /255"),
        ("pgd.eps=NaN", "eps expects"),
        ("pgd.eps=1e99", "eps expects|outside"),
        ("pgd.steps=2.5", "steps expects int"),
        ("pgd.steps=٣", "steps expects int"),
        ("pgd.nope=1", "Unknown parameter 'nope'"),
        ("pgd.loss=<b>", "is not one of"),
        ("ttc.steps=2", "'ttc.steps' belongs to no method of this link"),
        ("__proto__.x=1", "belongs to no method"),
        ("goal=fame", "Unknown goal 'fame'"),
        ("goal=label&target=zebra", "“zebra” is not among the labels"),
        ("truth=zebra", "“zebra” is not among the labels"),
        ("seed=-1", "seed=-1 is outside"),
        ("seed=2147483648", "seed=2147483648 is outside"),
        ("seed=x", "seed expects a whole number"),
        ("seed=1.5", "seed expects a whole number"),
        ("attacker=god", "Unknown attacker 'god'"),
        ("model=local-dir:/etc", "Unknown model 'local-dir:/etc'"),
        ("defenses=nope", "Unknown defense 'nope'"),
        ("defenses=pgd", "Unknown defense 'pgd'"),
        ("defenses=fap", "FAP has no weights for pocket"),
        ("defenses=fare&fare.alpha=7", "alpha=7.0 is outside"),
        ("picture=/etc/passwd", "There is no picture '/etc/passwd' in the gallery"),
        ("picture=https://x/y.png", "There is no picture"),
        ("foo=1", "Unknown key 'foo'"),
        ("%3Cimg src%3Dx onerror%3Dalert(1)%3E=1", "Unknown key '<img src=x onerror=alert(1)>'"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_the_rest_is_kept(query, sentence):
    link = read(f"?v=1&seed=5&{query}" if "seed" not in query else f"?v=1&{query}")
    assert len(link.left_out) == 1
    assert any(part in link.left_out[0] for part in sentence.split("|")), link.left_out
    assert sentence.split("|")[-1] in link.sentence() or "Left out:" in link.sentence()
    assert link.recipe.seed == (0 if "seed" in query else 5)
    assert link.recipe.labels == "cat, dog, lion"
    assert link.recipe.attack == "pgd"
    assert link.recipe.model == "pocket"


def test_an_attack_is_kept_where_only_its_goal_cannot_be_used():
    link = read("?v=1&attack=apgd_ce&apgd_ce.eps=1&goal=label&target=zebra")
    assert link.recipe.attack == "apgd_ce"
    assert link.recipe.params["eps"] == 1
    assert (link.recipe.goal, len(link.left_out)) == ("wrong", 1)


def test_hostile_labels_are_labels():
    link = read(write_link(FRESH | {"labels": list(stories.HOSTILE)}, ""))
    assert link.recipe.labels == ", ".join(stories.HOSTILE)
    assert link.left_out == ()


def test_many_troubles_are_cut_short():
    link = read("?v=1&" + "&".join(f"key{'x' * 300}{i}=1" for i in range(9)))
    assert len(link.left_out) == 9
    assert link.sentence().endswith("And 6 more.")
    assert len(link.sentence()) < 500


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?v=2&attack=pgd", "version '2'"),
        ("?attack=pgd", "no version"),
        ("?v=&attack=pgd", "no version"),
        ("?v=1&labels=" + "x" * 3 * LONGEST, "too long"),
        ("?v=1&" + "&".join(f"k{i}=" for i in range(900)), "too long"),
    ],
)
def test_a_link_of_another_kind_changes_nothing(query, words):
    with pytest.raises(DemoError, match=words) as caught:
        read(query)
    assert "Nothing was changed" in str(caught.value)


def test_switches_of_the_page_are_no_recipe_and_no_trouble():
    assert read_query("?view=lecture&__theme=dark&lang=de") == read_query("") == {}
    for query in ("v=1", "attack=pgd", "pgd.eps=4"):
        assert read_query(f"?{query}")
    assert read("?v=1&view=lecture&__theme=dark&lang=de").left_out == ()


@pytest.mark.parametrize("code", ["en", "zh", "de"])
def test_the_language_travels(code):
    query = write_link(FULL, "lion", code)
    assert query.startswith("?v=1&")
    assert query.endswith(f"&lang={code}")
    link = read(query)
    assert (link.language, link.left_out) == (code, ())
    assert link.recipe == read(write_link(FULL, "lion")).recipe


def test_a_link_that_names_no_language_leaves_it_to_the_browser():
    assert "lang" not in write_link(FULL, "lion")
    assert read(write_link(FULL, "lion")).language == ""


@pytest.mark.parametrize("code", ["xx", "DE", "", "de,en", "<b>"])
def test_a_language_that_is_not_here_is_left_out_and_named(code):
    link = read(f"?v=1&attack=fgsm&lang={code}")
    assert link.language == ""
    assert link.left_out == (f"Unknown language {code!r}.",)
    assert link.recipe.attack == "fgsm"


def test_a_picture_of_ones_own_is_named_as_missing():
    link = read(write_link(FRESH, OWN))
    assert link.picture == OWN
    assert "a link cannot carry" in link.sentence()


def test_an_unusable_or_endless_recipe_makes_no_link():
    with pytest.raises(DemoError, match="at least 2"):
        write_link(FRESH | {"labels": ["cat"]}, "")
    with pytest.raises(DemoError, match="Shorten the list"):
        write_link(FRESH | {"labels": [f"{'é' * 70}{i}" for i in range(100)]}, "")


def test_a_model_outside_the_catalog_is_not_named():
    query = write_link(FRESH | {"model": "local-dir:/home/me/weights"}, "")
    assert "model" not in query
    assert "home" not in query


def test_a_model_this_server_does_not_offer_is_left_out_and_named():
    query = read_query("?v=1&model=ViT-B-32&seed=3")
    assert read_link(query, FRESH, {}).recipe.model == "ViT-B-32"
    link = read_link(query, FRESH, {}, ("pocket",))
    assert (link.recipe.model, link.recipe.seed) == ("pocket", 3)
    assert link.left_out == ("Unknown model 'ViT-B-32'.",)
