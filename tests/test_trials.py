"""The attacker over many photos: rows that can be resumed, and the table made of them."""

from __future__ import annotations

import json

import pytest

from tests import tiny
from vlmdefense_demo.errors import InvalidParameter, UnknownMethod
from vlmdefense_demo.ladder import Budget
from vlmdefense_demo.trial_report import indicators, read_rows, table
from vlmdefense_demo.trials import Plan, chosen_photos, measure

SMALL = Budget(steps=2, adaptive_steps=2, draws=2, queries=5, fresh=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo set as the trials read it: a csv beside a folder."""
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    (root / "objects").mkdir()
    words = [f"word {i}" for i in range(14)]
    for i, _ in enumerate(words):
        x = (tiny.images(seed=i)[0] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(x).save(root / "objects" / f"{i}.png")
    rows = "".join(f"{i}.png,{word},\n" for i, word in enumerate(words))
    (root / "objects.csv").write_text(f"file,label,wordnet_id\n{rows}")
    return root


def plan(**changes):
    given = {"attacks": ("fgsm", "noise"), "eps": (1.0, 4.0), "budget": SMALL}
    return Plan(**(given | changes))


def test_every_photo_has_ten_labels_its_own_among_them(folder):
    photos = chosen_photos(folder, 6)
    assert len(photos) == 6
    for photo, labels in photos:
        assert labels[0] == photo.label
        assert len(set(labels)) == 10
    assert photos == chosen_photos(folder, 6)


def test_shards_share_the_photos_out(folder):
    whole = {p.file for p, _ in chosen_photos(folder, 9)}
    shards = [{p.file for p, _ in chosen_photos(folder, 9, (i, 3))} for i in range(3)]
    assert set.union(*shards) == whole
    assert sum(map(len, shards)) == len(whole)


def test_a_killed_trial_goes_on_where_it_stopped(folder, backbone, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    photos = chosen_photos(folder, 3)
    measure(plan(), backbone, photos, whole)
    lines = whole.read_text().splitlines()
    assert len(lines) == 3 * 2 * 2
    cut.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20] + "\n")
    measure(plan(), backbone, photos, cut)

    def timeless(file):
        return sorted(json.dumps(row | {"s": 0}) for row in read_rows(file))

    assert timeless(cut) == timeless(whole)
    measure(plan(), backbone, photos, cut)
    assert timeless(cut) == timeless(whole)


def test_other_settings_are_another_measurement(folder, backbone, tmp_path):
    photos, file = chosen_photos(folder, 2), tmp_path / "rows.jsonl"
    for steps in (1, 2, 2):
        asked = plan(attacks=("pgd",), eps=(1.0,), settings={"pgd": {"steps": steps}})
        measure(asked, backbone, photos, file)
    assert sorted(r["b"] for r in read_rows(file)) == [1, 1, 2, 2]


def test_another_model_is_another_measurement_and_no_table_mixes_them(folder, backbones, tmp_path):
    photos, file = chosen_photos(folder, 2), tmp_path / "rows.jsonl"
    asked = plan(attacks=("noise",), eps=(1.0,))
    for name in ("vit", "resnet", "vit"):
        measure(asked, backbones[name], photos, file)
    rows = read_rows(file)
    assert len(rows) == 4
    with pytest.raises(InvalidParameter, match="different models, weights or settings"):
        list(table(rows))
    assert list(table(rows[:2]))


def test_a_ladder_gives_one_row_a_rung(folder, backbone, tmp_path):
    asked = plan(
        attacks=("pgd",), eps=(8.0,), defenses=("ttc",), rungs=("white_box", "adaptive"),
        settings={"pgd": {"steps": 2}},
    )  # fmt: skip
    measure(asked, backbone, chosen_photos(folder, 14), tmp_path / "rows.jsonl")
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {r["rung"] for r in rows} >= {"undefended", "transfer"}
    assert all(r["right"] == (r["verdict"] == "held") for r in rows if r["clean"])
    right = [r for r in rows if r["defense"] == "ttc" and r["clean"]]
    by_photo = {}
    for row in right:
        by_photo.setdefault(row["photo"], []).append(row["rung"])
    assert all(v == ["transfer", "white_box", "adaptive"] for v in by_photo.values())


def test_unknown_methods_are_refused(folder, backbone, tmp_path):
    with pytest.raises(UnknownMethod):
        measure(
            plan(attacks=("nope",)), backbone, chosen_photos(folder, 1), tmp_path / "rows.jsonl"
        )


# the table


def row(photo, verdict="held", clean=True, **more):
    return {
        "photo": photo, "attack": "pgd", "eps": 4.0, "defense": "fare", "rung": "transfer", "with": [],
        "clean": clean, "right": verdict == "held", "verdict": verdict, "flags": [], "f": 10, "b": 10, "s": 0.5, "wrong": None,
    } | more  # fmt: skip


def test_the_rate_counts_only_photos_that_were_right_before():
    rows = [row(i, "fooled") for i in range(5)] + [row(i) for i in range(5, 10)]
    rows += [row(i, "wrong_clean", False) for i in range(10, 13)]
    (line,) = table(rows)
    assert "fooled  50.0% [23.7%, 76.3%] of 10 (clean 10/13)" in line  # Wilson, closed form
    assert "10 f + 10 b, 0.50 s" in line


def test_the_worst_rung_is_taken_photo_by_photo():
    rows = [row(0, "fooled"), row(1), row(0, rung="adaptive"), row(1, "fooled", rung="adaptive")]
    lines = list(table(rows))
    assert len(lines) == 3
    assert "worst" in lines[-1]
    assert "fooled 100.0%" in lines[-1]


def test_errors_are_counted_and_never_averaged():
    *_, line = table([row(0), row(1, None, rung="error")])
    assert line == "1 results are errors"


def test_flags_of_the_checks_are_counted_and_those_of_the_row_are_not():
    rows = [row(0, flags=["unaware", "wrong_gradient"]), row(1, flags=["unaware"])]
    rows += [row(0, flags=["unaware", "wrong_gradient"], rung="adaptive")]
    *_, line = table(rows)
    assert line == "fare       flag wrong_gradient   on 1 of 2 cards"
    assert not any("unaware" in line for line in table(rows))


def test_fresh_draws_stand_beside_the_rate():
    (line,) = table([row(0, wrong=0.25), row(1, wrong=0.75)])
    assert line.endswith("fresh draws wrong 50.0%")


def test_a_cut_line_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row(0)) + "\n" + json.dumps(row(1))[:30])
    assert len(read_rows(file)) == 1


@pytest.mark.parametrize(
    ("rows", "sign"),
    [
        ([row(0, "held", eps=128.0)], "GM8 fare, pgd, eps 128, transfer: 1 photos survive"),
        (
            [row(0, "wrong_clean", clean=False, right=True)],
            "GM13 fare, pgd, eps 4, transfer: 1 photos are right under attack, 0 before it",
        ),
        ([row(0, "fooled", attack="fgsm"), row(0)], "GM6 fare, fgsm, eps 4, transfer: fools 1"),
        ([row(0, "fooled", eps=2.0), row(0)], "GM10 fare, pgd, eps 2, transfer: fools 1"),
        ([row(0, "fooled"), row(0, eps=8.0), row(1), row(1, "fooled", eps=8.0)], None),
        ([row(0, "fooled", attack="fgsm"), row(0, "fooled")], None),
    ],
)
def test_signs_of_masked_gradients_among_the_rows(rows, sign):
    found = list(indicators(rows))
    assert found == [] if sign is None else len(found) == 1 and found[0].startswith(sign)
