"""The same rows whatever happens on the way, and rows that say what `engine.compare` would."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests import tiny
from vlmdefense_demo.benchmark import plan as plans
from vlmdefense_demo.benchmark.measure import measure
from vlmdefense_demo.benchmark.plan import Plan, Setting, settings
from vlmdefense_demo.benchmark.remember import Remembering
from vlmdefense_demo.benchmark.rows import Rows, read_rows
from vlmdefense_demo.benchmark.scene import Scene
from vlmdefense_demo.benchmark.throughput import listening
from vlmdefense_demo.defenses.test_time.ensemble import ViewEnsemble
from vlmdefense_demo.errors import InvalidParameter, UnknownMethod
from vlmdefense_demo.ladder import Opponent
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.variants import Variant
from vlmdefense_demo.types import Cost


def timeless(*files):
    rows = [row | {"s": 0} for row in read_rows(*files)]
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.fixture
def whole(plan, backbone, some_tasks, tmp_path):
    file = tmp_path / "whole.jsonl"
    measure(plan(), backbone, some_tasks, Rows(file))
    return file


def test_every_picture_has_every_cell_once(whole, plan, some_tasks):
    rows = read_rows(whole)
    pictures = sum(len(t.pictures) for t in some_tasks)
    assert len(rows) == pictures * 4 * 5  # clean, and two steps at two radii
    assert len({row["key"] for row in rows}) == len(rows)
    assert not any(row["error"] for row in rows)


def test_who_climbs_only_ever_falls(whole):
    stood: dict[tuple[str, str], dict[tuple[str, float], bool]] = {}
    for row in read_rows(whole):
        name = row["defense"] + json.dumps(row["values"]), row["picture"]
        stood.setdefault(name, {})[row["step"], row["eps"]] = row["standing"]
    assert any(not found["clean", 0.0] for found in stood.values())
    for found in stood.values():
        for eps in (2.0, 8.0):
            assert found["clean", 0.0] >= found["transfer", eps] >= found["adaptive", eps]
        assert found["adaptive", 2.0] >= found["adaptive", 8.0]
    fell = [f for f in stood.values() if f["clean", 0.0] and not f["adaptive", 8.0]]
    assert fell, "no attacker got through: the test shows nothing"


def test_a_torn_file_goes_on(whole, plan, backbone, some_tasks, tmp_path):
    lines = whole.read_text().splitlines(keepends=True)
    for kept in (7, 61, len(lines) - 3):
        cut = tmp_path / f"{kept}.jsonl"
        cut.write_text("".join(lines[:kept]) + lines[kept][:25])
        measure(plan(), backbone, some_tasks, Rows(cut))
        assert timeless(cut) == timeless(whole)


def test_a_finished_file_is_left_alone(whole, plan, backbone, some_tasks, monkeypatch):
    before = whole.read_bytes()
    monkeypatch.setattr(Scene, "prepare", lambda self: pytest.fail("measured again"))
    measure(plan(), backbone, some_tasks, Rows(whole))
    assert whole.read_bytes() == before


def test_shares_of_the_batches_are_the_whole(whole, plan, backbone, some_tasks, tmp_path):
    shares = [tmp_path / f"{i}.jsonl" for i in range(2)]
    for i, file in enumerate(shares):
        measure(plan(), backbone, some_tasks[i::2], Rows(file))
    assert timeless(*shares) == timeless(whole)


def test_a_run_killed_three_times_has_the_same_rows(whole, model_dirs, tree, tmp_path):
    file = tmp_path / "killed.jsonl"
    command = [
        sys.executable, "-m", "tests.benchmark.run_plan", str(model_dirs["vit"]), str(tree), str(file)
    ]  # fmt: skip
    for least in (5, 40, 120):
        child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while child.poll() is None and (
            not file.exists() or file.read_bytes().count(b"\n") < least
        ):
            time.sleep(0.01)
        assert child.poll() is None, "it was finished before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert timeless(file) == timeless(whole)


def test_several_draws_are_several_rows(plan, backbone, some_tasks, tmp_path):
    asked = plan("ensemble:views=2", steps=("clean",), seeds=(0, 1, 2))
    file = tmp_path / "rows.jsonl"
    measure(asked, backbone, some_tasks[:1], Rows(file))
    assert len(read_rows(file)) == 3 * len(some_tasks[0].pictures)


@pytest.mark.parametrize(
    "change",
    [
        {"defenses": "ensemble:views=4"},
        {"attack_values": {"steps": 3}},
        {"template": "a drawing of a {}."},
        {"seeds": (1,)},
    ],
)
def test_what_changes_a_row_changes_its_name(plan, backbone, some_tasks, tmp_path, change):
    file = tmp_path / "rows.jsonl"
    for asked in (plan("ensemble:views=3", steps=("transfer",)),
                  plan(**({"defenses": "ensemble:views=3", "steps": ("transfer",)} | change))):  # fmt: skip
        measure(asked, backbone, some_tasks[:1], Rows(file))
    assert len(read_rows(file)) == 2 * 2 * len(some_tasks[0].pictures)


def test_what_is_trained_again_has_rows_of_its_own(plan, monkeypatch):
    def names(method, sha256):
        there = {"fare": (Variant("fare", "fare.safetensors", 4, sha256=sha256),)}
        monkeypatch.setattr(plans, "variants", lambda model, method: there.get(method, ()))
        asked = plan(method)
        [setting] = asked.defenses
        return asked.company((setting,), setting, "clean", "pocket")

    for method in ("fare", "fare+ttc", "jpeg+fare"):
        assert names(method, "a") != names(method, "b")
    for method in ("undefended", "ttc", "rtpt"):
        assert names(method, "a") == names(method, "b")


def test_what_failed_is_measured_again_and_then_counts(plan, backbone, some_tasks, tmp_path):
    asked, file = plan("bits", steps=("clean",)), tmp_path / "rows.jsonl"
    measure(asked, backbone, some_tasks[:1], Rows(file))
    good = timeless(file)
    failed = [row | {"error": "out of memory", "standing": False} for row in read_rows(file)]
    file.unlink()
    Rows(file).add(failed)
    assert {row["error"] for row in read_rows(file)} == {"out of memory"}
    measure(asked, backbone, some_tasks[:1], Rows(file))
    assert timeless(file) == good
    before = file.read_bytes()
    measure(asked, backbone, some_tasks[:1], Rows(file))
    assert file.read_bytes() == before


def test_no_batch_is_remembered_when_it_is_over(plan, backbone, some_tasks, tmp_path):
    asked = plan("fare,fare:alpha=0.5,tecoa_vp,tapt:views=2", steps=("clean",))
    measure(asked, backbone, some_tasks, Rows(tmp_path / "rows.jsonl"))
    gc.collect()
    assert not [it for it in gc.get_objects() if type(it) is Remembering]


def test_a_file_is_about_one_models_weights(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    for name, weights in (("pocket", "a"), ("other", "b"), ("pocket", "a")):
        rows.begin({"model": {"name": name, "sha256": weights}})
    with pytest.raises(InvalidParameter, match="pocket with other weights"):
        rows.begin({"model": {"name": "pocket", "sha256": "c"}})


def test_one_defence_does_not_change_another(plan, backbone, some_tasks, tmp_path):
    alone, beside = tmp_path / "alone.jsonl", tmp_path / "beside.jsonl"
    measure(plan("tvss:views=4"), backbone, some_tasks[:1], Rows(alone))
    measure(plan("ensemble:views=4,bits,tvss:views=4"), backbone, some_tasks[:1], Rows(beside))
    kept = [json.loads(line) for line in timeless(beside)]
    mine = [json.dumps(row, sort_keys=True) for row in kept if row["defense"] == "tvss"]
    assert mine == timeless(alone)


def test_what_breaks_the_kin_is_tried_first(plan, backbone, some_tasks, tmp_path, monkeypatch):
    own = Scene.adaptive

    def wrong(self, setting, eps, i, transferred):
        """Of the kin's attacker a picture of another word, which no view method takes for this one."""
        if setting.name != "ensemble:views=4":
            return own(self, setting, eps, i, transferred)
        others = (self.goal.labels != self.goal.labels[i]).nonzero().flatten()
        return self.x[others[:1]], Cost()

    monkeypatch.setattr(Scene, "adaptive", wrong)
    mixed = next(t for t in some_tasks if len({p.label for p in t.pictures}) > 1)
    file = tmp_path / "rows.jsonl"
    measure(plan("tvss:views=4", eps=(2.0,)), backbone, [mixed], Rows(file))
    rows = read_rows(file)
    attacked = [r for r in rows if r["step"] == "adaptive" and r["f"]]
    fell = [r for r in attacked if not r["standing"]]
    assert fell
    assert all(r["b"] == 0 for r in fell), (
        "its own attacker was asked although the kin's was through"
    )


def test_what_broke_a_sibling_is_tried_first(plan, backbone, some_tasks, tmp_path):
    file = tmp_path / "rows.jsonl"
    # Rounding to 128 or 256 levels hardly differs: what breaks one breaks the other.
    asked = plan("bits:bits=7/8", eps=(8.0,), steps=("clean", "adaptive"),
                 attack_values={"draws": 1}, attack="noise")  # fmt: skip
    measure(asked, backbone, some_tasks, Rows(file))
    found = {(r["values"]["bits"], r["picture"]): r for r in read_rows(file) if r["eps"]}
    both = [
        p for bits, p in found if bits == 7 and not found[7, p]["standing"] and found[7, p]["b"]
    ]
    assert both, "the attacker broke nothing: the test shows nothing"
    for picture in both:
        assert not found[8, picture]["standing"]
        assert found[8, picture]["b"] == 0


def test_settings_with_one_attacker_share_his_pictures(
    plan, backbone, some_tasks, tmp_path, monkeypatch
):
    made, own = [], Opponent.adaptive

    def counted(self, x, warm=None):
        """Who is asked for a picture, and at which radius."""
        made.append((self.ball.radius, self.run.ids))
        return own(self, x, warm)

    monkeypatch.setattr(Opponent, "adaptive", counted)
    together, alone = tmp_path / "together", tmp_path / "alone"
    measure(plan("ensemble:views=8/12"), backbone, some_tasks, Rows(together))
    assert len(made) == len(set(made)), "one picture was made twice"
    measure(plan("ensemble:views=12"), backbone, some_tasks, Rows(alone))
    both, one = ({(r["picture"], r["step"], r["eps"]): r["standing"] for r in read_rows(file)
                  if r["values"]["views"] == 12} for file in (together, alone))  # fmt: skip
    fell = [cell for cell in one if cell[1] == "adaptive" and not one[cell]]
    assert fell
    assert all(not both[cell] for cell in fell), "what breaks it alone breaks it in company"


def test_who_is_attacked_as_another_is_named_after_it():
    [few, many, usual] = settings("rtpt:views=4/16,ttp")
    assert (few.attacked, many.attacked, usual.attacked) == (
        few.name,
        "rtpt:views=8",
        "ttp:views=8",
    )
    [every, strong] = settings("tte:views=12,bits:bits=3")
    assert (every.attacked, strong.attacked) == (every.name, strong.name)


def test_whose_attacker_was_asked_for_its_kin_has_the_same_rows(
    plan, backbone, some_tasks, tmp_path
):
    found = []
    for order in ("ensemble:views=4,tvss:views=4", "tvss:views=4,ensemble:views=4"):
        file = tmp_path / f"{len(found)}.jsonl"
        measure(plan(order, eps=(2.0,)), backbone, some_tasks[:1], Rows(file))
        found.append(timeless(file))
    assert found[0] == found[1]
    assert any(json.loads(row)["b"] for row in found[0])


@pytest.mark.parametrize(
    ("asked", "kin"),
    [
        ("tvss", "ensemble"),
        ("rtpt:views=4", "ensemble:views=4"),
        ("ensemble", None),
        ("bits", None),
    ],
)
def test_kin_have_as_many_views(asked, kin):
    found = settings(asked)[0].kin
    assert (found and found.name) == kin


def test_many_views_of_many_pictures_are_not_encoded_at_once(
    plan, backbone, some_tasks, tmp_path, monkeypatch
):
    measured = []
    for most in (1000, 7):
        monkeypatch.setattr("vlmdefense_demo.benchmark.trial.TOGETHER", most)
        file = tmp_path / f"{most}.jsonl"
        with listening(backbone) as calls:
            measure(plan("ensemble:views=3", steps=("clean",)), backbone, some_tasks, Rows(file))
        measured.append((max(n for n, _ in calls), timeless(file)))
    assert measured[0][0] == 3 * max(len(task.pictures) for task in some_tasks)
    assert measured[1][0] == 6
    assert measured[0][1] == measured[1][1]


def test_attackers_leave_nothing_in_memory(plan, backbone, some_tasks):
    scene = Scene(plan(), backbone, some_tasks[0], 0)
    scene.prepare()
    scene.attacked(8.0)
    scene.adaptive(Setting("ensemble"), 8.0, 0, scene.attacked(8.0)[0][:1])
    assert not scene.judge.backbone._seen


def test_latency_is_that_of_a_single_picture(plan, backbone, some_tasks, tmp_path):
    file = tmp_path / "rows.jsonl"
    measure(plan("ensemble:views=3", steps=("latency",)), backbone, some_tasks[:1], Rows(file))
    for row in read_rows(file):
        assert row["f"] == 3
        assert row["s"] > 0


def test_a_method_that_fails_leaves_the_others(backbone, some_tasks, tmp_path, monkeypatch):
    def fails(self, clf, x, *, run):
        raise InvalidParameter("It cannot.")

    monkeypatch.setattr(ViewEnsemble, "__call__", fails)
    file = tmp_path / "rows.jsonl"
    plan = Plan(settings("ensemble,undefended"), (4.0,))
    measure(plan, backbone, some_tasks[:1], Rows(file))
    errors = {row["defense"]: row["error"] for row in read_rows(file)}
    assert errors == {"ensemble": "It cannot.", "undefended": ""}


def test_a_picture_is_encoded_once(backbone):
    counted = []
    plain = Remembering(backbone)
    clf = ZeroShotClassifier(plain, tiny.LABELS)
    tower = plain._tower
    plain._tower = lambda x: counted.append(len(x)) or tower(x)
    x = tiny.images(3)
    with torch.no_grad():
        first = clf(x)
        torch.testing.assert_close(clf(x.flip(0)), first.flip(0))
        torch.testing.assert_close(clf(torch.cat([x[:1], x[:1]])), first[[0, 0]])
    assert counted == [3]
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(clf(leaf).sum(), leaf)
    assert counted == [3, 3]


def test_few_views_are_the_first_of_many(backbone):
    x, run = tiny.images(2), tiny.run_for(2)
    clf = tiny.classifier(backbone)
    few, many = (ViewEnsemble(views=n).draw(clf, x, run).unflatten(0, (2, n)) for n in (4, 9))
    assert torch.equal(few, many[:, :4])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"defenses": "nothing"}, "Unknown"),
        ({"defenses": "bits:bits=99"}, "outside"),
        ({"defenses": "bits:bits"}, "ID:FIELD=VALUE"),
        ({"defenses": "bits,bits"}, "twice"),
        ({"defenses": ""}, "nothing to measure"),
        ({"eps": (4.0, 2.0)}, "smallest first"),
        ({"eps": (0.4,)}, "0 grey levels"),
        ({"steps": ("transfer", "guess")}, "Unknown step"),
        ({"attack": "autoattack"}, "cannot be used"),
        ({"attack": "caption"}, "cannot be used"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan, change, says):
    with pytest.raises((InvalidParameter, UnknownMethod), match=says):
        plan(**({"attack_values": {}} | change))


def test_the_gradient_is_checked_picture_by_picture(plan, backbone, some_tasks, tmp_path):
    """Eight bits are what a picture has: inactive, which is no question for the model itself."""
    asked = plan("undefended,bits:bits=8", steps=("gradient",))
    file = tmp_path / "rows.jsonl"
    measure(asked, backbone, some_tasks[:2], Rows(file))
    rows = read_rows(file)
    n = sum(len(task.pictures) for task in some_tasks[:2])
    assert len(rows) == 2 * n
    flags = {
        id: [row["flags"] for row in rows if row["defense"] == id] for id in ("undefended", "bits")
    }
    for alone, same in zip(flags["undefended"], flags["bits"], strict=True):
        assert same == [*alone, "inactive"]
        assert "no_gradient" not in alone
    assert {(r["f"], r["b"]) for r in rows if r["defense"] == "undefended"} == {(5, 1)}
