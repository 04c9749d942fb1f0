"""Goals, groups and the recipe of the file, on the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import tiny
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import InvalidImage, InvalidLabels, InvalidParameter
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.request import Aim, Request, check_request

PARAMS = {"eps": 32, "steps": 40}


def request(**changes):
    plain = Request(tiny.images(), list(tiny.LABELS), attack_params=PARAMS, seed=3)
    return replace(plain, **changes)


def last(backbone, **changes):
    return list(compare(request(**changes), backbone))[-1]


def ranked(card):
    pairs = zip(card.clean.logits, card.clean.labels, strict=True)
    return [label for _, label in sorted(pairs, reverse=True)]


# goals


@pytest.mark.parametrize(("kind", "place"), [("runner-up", 1), ("least likely", -1)])
def test_a_rank_among_the_clean_answers_can_be_the_goal(backbone, kind, place):
    card = last(backbone, aim=Aim(kind))
    assert card.attack.targeted
    assert card.attack.success
    assert card.attacked.label == ranked(card)[place]


def test_a_rank_skips_what_counts_as_the_right_answer(backbone):
    first, second, third, _ = ranked(last(backbone))
    labels = [f"{first} = {second}", *(w for w in tiny.LABELS if w not in (first, second))]
    card = last(backbone, labels=labels, aim=Aim("runner-up"))
    assert set(card.right) == {first, second}
    assert card.attack.success
    assert card.attacked.label == third


def test_what_a_mistaken_model_says_already_is_no_goal(backbone):
    """Nothing would have to be done to reach it."""
    first, second, third, last_one = ranked(last(backbone))
    card = last(backbone, reference=second, aim=Aim("runner-up"))
    assert card.clean.label == first
    assert (card.reference, card.attacked.label) == (second, third)
    for target, why in ((first, "already the answer"), (second, "the right answer")):
        with pytest.raises(InvalidLabels, match=f"“{target}” is {why}"):
            last(backbone, reference=second, aim=Aim("label", target))
    card = last(backbone, reference=last_one, aim=Aim("least likely"))
    assert card.attacked.label == third
    with pytest.raises(InvalidLabels, match="Choose another target"):
        last(backbone, labels=[first, second], reference=second, aim=Aim("runner-up"))


def test_a_text_of_ones_own_joins_the_labels(backbone):
    card = last(backbone, aim=Aim("caption", "a green, wooden = boat"))
    assert card.clean.labels == (*tiny.LABELS, "a green wooden boat")
    assert card.attack.success
    assert card.attacked.label == "a green wooden boat"


@pytest.mark.parametrize("attack", ["pgd", "image_target"])
def test_a_second_picture_is_a_goal(backbone, clf, attack):
    labels = clf(torch.cat([tiny.images(seed=s) for s in range(20)])).argmax(1).tolist()
    own = int(clf(tiny.images()).argmax())
    other = tiny.images(seed=next(s for s, label in enumerate(labels) if label != own))
    card = last(backbone, attack=attack, aim=Aim("picture", picture=other))
    assert card.attack.targeted
    assert card.attack.success == (card.attacked.label == tiny.LABELS[int(clf(other).argmax())])
    if attack == "pgd":
        assert card.attack.success


def test_a_goal_given_in_parts_is_read_as_meant():
    picture = tiny.images()
    assert Aim.at(" dog ") == Aim("label", "dog")
    assert Aim.at("") == Aim.at(None) == Aim.at("", "wrong") == Aim()
    assert Aim.at("dog", "wrong").kind == "label"
    assert Aim.at("dog", "caption").kind == "caption"
    assert Aim.at("", "", picture).kind == "picture"
    assert Aim.at("", "runner-up").kind == "runner-up"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"aim": Aim("label", "boat")}, InvalidLabels, "“boat” is not among the labels"),
        ({"aim": Aim("caption", "  ")}, InvalidLabels, "no text to aim at"),
        ({"aim": Aim("picture")}, InvalidParameter, "no picture to aim at"),
        ({"aim": Aim("fame")}, InvalidParameter, "Unknown goal 'fame'"),
        ({"attack": "caption"}, InvalidParameter, "aims at a text of your own"),
        ({"attack": "image_target"}, InvalidParameter, "aims at a second picture"),
        ({"attack": "caption", "aim": Aim("label", "dog")}, InvalidParameter, "a text of your own"),
        ({"attack_params": {"eps": 0}}, InvalidParameter, "rounds to 0 grey levels"),
        ({"attack_params": {"eps": 0.9}}, InvalidParameter, "eps=0.9/255 rounds to 0"),
        (
            {"attack_params": {"eps": 1.5}},
            InvalidParameter,
            "between two grey levels.*1/255 or 2/255",
        ),
        ({"rungs": ("psychic",)}, InvalidParameter, "Unknown rung 'psychic'"),
        ({"labels": ["cat = dog", "dog = bird"]}, InvalidLabels, "count as the same answer"),
    ],
    ids=str,
)
def test_what_cannot_be_aimed_at_is_a_sentence(changes, error, words):
    with pytest.raises(error, match=words):
        check_request(request(**changes))


def test_a_picture_that_cannot_be_read_is_no_goal():
    with pytest.raises(InvalidImage, match="not a picture"):
        read_upload(b"\x89PNG\r\n\x1a\n but not really")


def test_a_second_picture_that_lies_around_is_not_the_goal(backbone, clf):
    other = tiny.images(seed=9)
    shown = tiny.LABELS[int(clf(other).argmax())]
    wanted = next(w for w in ranked(last(backbone))[1:] if w != shown)
    one = last(backbone, aim=Aim("label", wanted))
    two = last(backbone, aim=Aim("label", wanted, other))
    assert one.attack.png == two.attack.png


@pytest.mark.parametrize("labels", [[5], [None], [5, "cat"]])
def test_labels_that_are_no_text_are_a_sentence(labels):
    with pytest.raises(InvalidLabels, match="Labels are text"):
        check_request(request(labels=labels))


@pytest.mark.parametrize("labels", ["dog, cat", ["dog, cat"], ["dog", "cat"]])
def test_a_caption_joins_labels_in_any_form(labels):
    words, _ = request(labels=labels, aim=Aim("caption", "a red car")).words()
    assert words == ("dog", "cat", "a red car")


def test_a_label_typed_with_a_combining_accent_is_the_same_label():
    labels = ["cafe\u0301", "dog"]
    for name in ("caf\u00e9", "cafe\u0301", " CAFE\u0301 "):
        check_request(request(labels=labels, reference=name, aim=Aim("label", "dog")))


# groups


def test_an_answer_of_the_same_group_is_right(backbone):
    """All but one label count as one answer: only the other one is a success."""
    other = ranked(last(backbone))[1]
    same = " = ".join(w for w in tiny.LABELS if w != other)
    card = last(backbone, labels=[same, other])
    assert set(card.right) == set(tiny.LABELS) - {other}
    assert card.attack.success == (card.attacked.label == other)
    assert card.attack.success


def test_a_target_of_the_same_group_is_already_the_answer(backbone):
    first, second, *_ = ranked(last(backbone))
    labels = [f"{first} = {second}", *(w for w in tiny.LABELS if w not in (first, second))]
    with pytest.raises(InvalidLabels, match="already the answer"):
        last(backbone, labels=labels, aim=Aim.at(second))


def test_every_attack_leaves_the_whole_group(backbone):
    first, second, *_ = ranked(last(backbone))
    labels = [f"{first} = {second}", *(w for w in tiny.LABELS if w not in (first, second))]
    for attack in ("fgsm", "mi_fgsm", "apgd_ce", "apgd_dlr", "apgd_t", "square", "ddn"):
        card = last(backbone, labels=labels, attack=attack, attack_params={})
        assert card.attack.success == (card.attacked.label not in (first, second)), attack


# the recipe of the file


def test_the_file_says_how_it_was_made(backbone):
    card = last(backbone, labels=["cat = puppy", "dog", "bird"], aim=Aim.at("bird"))
    about = read_upload(card.attack.png).recipe
    assert about["labels"] == ["cat", "puppy", "dog", "bird"]
    assert about["groups"] == [0, 0, 2, 3]
    assert (about["goal"], about["target"], about["seed"]) == ("label", "bird", 3)
    assert about["params"]["eps"] == 32
    assert about["model"] == backbone.name


def test_the_hash_tells_label_lists_apart(backbone):
    def of(labels):
        return read_upload(last(backbone, labels=labels).attack.png).recipe["labels_hash"]

    assert of(["cat", "dog"]) == of(["cat", " dog "])
    assert of(["cat", "dog"]) != of(["dog", "cat"])


def test_the_clean_pixels_do_not_depend_on_the_text_in_the_file(backbone):
    card = last(backbone)
    again = Request(tiny.images(), list(tiny.LABELS), attack=None)
    assert read_upload(card.attack.png).image.size == (32, 32)
    assert next(iter(compare(again, backbone))).clean.logits == card.clean.logits
