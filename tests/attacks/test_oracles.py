"""Attacks whose right answer is known: closed forms, masks, draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vlmdefense_demo import library
from vlmdefense_demo.attacks.autoattack import standard, worst_of
from vlmdefense_demo.attacks.controls import Blur, JPEGControl, Noise
from vlmdefense_demo.attacks.cw import CW
from vlmdefense_demo.attacks.eot import eot_objective
from vlmdefense_demo.attacks.fab import FABT, project_plane
from vlmdefense_demo.attacks.features import Caption, Embedding
from vlmdefense_demo.attacks.minimal import DDN
from vlmdefense_demo.attacks.momentum import DIFGSM, MIFGSM
from vlmdefense_demo.attacks.patch import Patch
from vlmdefense_demo.attacks.square import Square
from vlmdefense_demo.attacks.typographic import EDGE, Typographic, write
from vlmdefense_demo.attacks.universal import Universal
from vlmdefense_demo.errors import InvalidImage, InvalidParameter, MissingWeights
from vlmdefense_demo.filters import shrunk_and_padded
from vlmdefense_demo.geometry import project_linf
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.types import Goal


def middle(n=2, size=8):
    """Far from black and white, so that the box never binds."""
    return (tiny.images(n, size) * 100 + 78).round() / 255


@pytest.fixture
def line():
    """Two labels whose boundary is a plane at a known distance."""
    return tiny.Linear(k=2)


def to_plane(line, x, order):
    """The distance of each image to the boundary, in the norm whose dual is `order`."""
    weight = line.weight[1] - line.weight[0]
    return (line(x)[:, 0] - line(x)[:, 1]).abs() / weight.norm(p=order)


# the smallest perturbations


@pytest.mark.parametrize(
    ("attack", "slack"),
    [(DDN(steps=200), 1.06), (CW(searches=9, steps=200, learning_rate=0.02), 1.06)],
    ids=["ddn", "cw"],
)
def test_smallest_l2_is_the_distance_to_the_plane(attack, slack, line):
    x = middle()
    out = attack(line, x, Goal(line(x).argmax(1)), run=tiny.run_for(2))
    found, nearest = (out - x).flatten(1).norm(dim=1), to_plane(line, x, 2)
    rounding = math.sqrt(x[0].numel() / 12) / 255
    assert (found >= nearest - 1e-4).all()
    assert (found <= slack * nearest + rounding).all()
    assert (line(out).argmax(1) != line(x).argmax(1)).all()


@pytest.mark.parametrize("attack", [DDN(steps=20), CW(searches=2, steps=20)], ids=["ddn", "cw"])
def test_what_smallest_attacks_deliver_lies_on_the_grid(attack, line):
    x = middle()
    out = attack(line, x, Goal(line(x).argmax(1)), run=tiny.run_for(2)) * 255
    assert (out - out.round()).abs().max() < 1e-3


def test_cw_confidence_buys_a_margin(line):
    x = middle()
    goal = Goal(line(x).argmax(1))
    reached = [
        goal.maximise(
            line(CW(confidence=k, learning_rate=0.05)(line, x, goal, run=tiny.run_for(2))), margin
        )
        for k in (0.0, 2.0)
    ]
    assert (reached[1] > 2).all()
    assert (reached[0] < reached[1]).all()


def test_cw_leaves_black_and_white_pixels_where_it_can_find_them_again(line):
    x = torch.tensor([0.0, 1.0]).repeat_interleave(96).view(1, 3, 8, 8)
    out = CW(searches=1, steps=3)(line, x, Goal(line(x).argmax(1)), run=tiny.run_for(1))
    assert out.isfinite().all()


def test_fab_reaches_the_plane_by_the_shortest_linf_way(line):
    x = middle()
    goal = Goal(line(x).argmax(1))
    out = FABT(eps=1.0, steps=20)(line, x, goal, run=tiny.run_for(2))
    found, nearest = (out - x).flatten(1).abs().amax(1), to_plane(line, x, 1)
    assert goal.reached(line(out)).all()
    assert (found >= nearest * 0.999).all()
    assert (found <= nearest * 1.06).all()


def test_fab_counts_only_what_survives_the_file():
    net, x = tiny.t0(), tiny.t0_images()
    goal = Goal(net(x).argmax(1))
    attack = FABT(eps=4 / 255, steps=20)
    out = attack(net, x, goal, run=tiny.run_for(16))
    assert torch.equal(attack.ball.quantise(out, x), out)
    assert torch.equal(goal.reached(net(out)), (out != x).flatten(1).any(1))
    assert goal.reached(net(out)).sum() >= 14


def test_fab_returns_the_image_where_the_ball_is_too_small(line):
    x = middle()
    eps = float(to_plane(line, x, 1).min()) / 2
    out = FABT(eps=eps, steps=10)(line, x, Goal(line(x).argmax(1)), run=tiny.run_for(2))
    assert torch.equal(out, x)


def test_projection_onto_a_plane_is_the_smallest_change_that_gets_there():
    x, generator = middle(4), torch.Generator().manual_seed(0)
    normal = torch.randn(x.shape, generator=generator)
    inside = (torch.rand(x.shape, generator=generator) * normal).flatten(1).sum(1)
    offset = (normal * x).flatten(1).sum(1) * 0.5 + inside * 0.5  # a plane through the box
    step = project_plane(x, normal, offset)
    there = (normal * (x + step)).flatten(1).sum(1)
    torch.testing.assert_close(there, offset, rtol=1e-3, atol=1e-3)
    moved = x + step
    assert moved.min() >= 0
    assert moved.max() <= 1
    gap = (offset - (normal * x).flatten(1).sum(1)).abs()
    free = gap / normal.flatten(1).abs().sum(1)  # without the box every pixel moves by this
    reach = step.flatten(1).abs().amax(1)
    assert (reach >= free - 1e-5).all()
    torch.testing.assert_close(reach[reach < 0.25], free[reach < 0.25], rtol=1e-3, atol=1e-4)


# composition


class Part:
    """Moves the rows it is given by one level, and counts them."""

    def __init__(self, wins):
        self.wins, self.rows, self.ball = wins, [], standard(8 / 255)[0].ball

    def __call__(self, target, x, goal, *, run):
        self.rows.append(run.ids)
        return (
            x
            + torch.tensor([1 if id in self.wins else 0 for id in run.ids]).view(-1, 1, 1, 1) / 255
        )


def test_every_part_of_autoattack_gets_what_still_stands():
    x = middle(3)

    def target(pixels):
        """Wrong where a picture is one level brighter than its original."""
        original = x[(pixels[:, None] - x[None]).flatten(2).norm(dim=2).argmin(1)]
        up = (pixels - original).mean((1, 2, 3)) * 255 - 0.5
        return torch.stack([torch.zeros(len(up)), up], 1)

    parts = [Part({"1"}), Part({"0"}), Part({"2"}), Part(set())]
    out = worst_of(parts, target, x, Goal(torch.zeros(3, dtype=torch.long)), tiny.run_for(3))
    assert [p.rows for p in parts] == [[("0", "1", "2")], [("0", "2")], [("2",)], []]
    assert (target(out).argmax(1) == 1).all()


def test_autoattack_works_on_a_batch_whose_images_fall_one_by_one(clf):
    """Also with a picture that is wrong before; called as a script calls it."""
    x = tiny.images(3)
    goal = Goal((clf(x).argmax(1) + torch.tensor([0, 1, 0])) % 4)
    result = library.attack("autoattack", clf, x, goal, eps=32 / 255)
    assert result.success.all()
    assert torch.equal(result.images[1], x[1])


def test_the_standard_version_is_what_the_paper_says():
    names = [type(p).__name__ for p in standard(4 / 255)]
    ce, t, fab, square = standard(4 / 255)
    assert names == ["APGDCE", "APGDT", "FABT", "Square"]
    assert ce.steps == t.steps == fab.steps == 100
    assert (square.queries, square.p_init, square.rescale) == (5000, 0.8, False)
    assert {p.eps for p in (ce, t, fab, square)} == {4 / 255}


# momentum and diversity


def test_mi_fgsm_without_decay_is_the_basic_iterative_method():
    net, x = tiny.t0(), tiny.t0_images()
    y, eps, steps = net(x).argmax(1), 4 / 255, 4
    ours = MIFGSM(eps=eps, steps=steps, decay=0.0)(net, x, Goal(y), run=tiny.run_for(16))
    pixels = x
    for _ in range(steps):
        leaf = pixels.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum")
        gradient = torch.autograd.grad(loss, leaf)[0]
        pixels = project_linf(pixels + eps / steps * gradient.sign(), x, eps)
    assert torch.equal(ours, pixels)


def test_di_fgsm_that_never_shrinks_is_mi_fgsm():
    net, x = tiny.t0(), tiny.t0_images()
    goal = Goal(net(x).argmax(1))
    plain = MIFGSM(steps=3)(net, x, goal, run=tiny.run_for(16))
    never = DIFGSM(steps=3, probability=0.0)(net, x, goal, run=tiny.run_for(16))
    assert torch.equal(plain, never)


def test_diverse_pictures_keep_their_size_and_are_framed_in_black():
    x = torch.ones(8, 3, 40, 40)
    out = shrunk_and_padded(x, tiny.run_for(8), smallest=0.5, probability=1.0)
    assert out.shape == x.shape
    share = (out > 0.5).float().mean((1, 2, 3))
    assert (share >= 0.24).all()
    assert (share < 1).any()
    assert out.amax((1, 2, 3)).allclose(torch.ones(8))


# pictures one can see


@pytest.mark.parametrize("place", ["centre", "corner", "best of 9"])
@pytest.mark.parametrize("printable", [False, True])
def test_a_patch_is_one_square_of_the_wanted_area(clf, place, printable):
    x = tiny.images(2)
    attack = Patch(area=0.1, steps=4, place=place, printable=printable)
    out = attack(clf, x, Goal(clf(x).argmax(1)), run=tiny.run_for(2))
    side = round((0.1 * 32 * 32) ** 0.5)
    for row, clean in zip(out, x, strict=True):
        changed = (row != clean).any(0)
        ys, xs = changed.nonzero(as_tuple=True)
        assert ys.max() - ys.min() < side
        assert xs.max() - xs.min() < side
        assert changed.float().mean() <= side * side / 32**2
    if place == "centre":
        assert (out != x)[:, :, 15:17, 15:17].any(1).all()


def test_a_printable_patch_is_never_split_over_two_edges(clf):
    """Shifted or not, the corner patch is one square of one size."""
    x, seen = tiny.images(1), []

    def target(pixels):
        changed = (pixels.detach() != x).any(1)[0]
        seen.append([changed.any(d).nonzero().flatten() for d in (0, 1)])
        return clf(pixels)

    attack = Patch(area=0.1, steps=12, place="corner", printable=True)
    attack(target, x, Goal(clf(x).argmax(1)), run=tiny.run_for(1))
    assert all(int(axis[-1] - axis[0]) < 10 for places in seen for axis in places)
    assert len({tuple(map(int, (a[0], b[0]))) for a, b in seen}) > 1


def test_more_area_never_makes_the_patch_weaker(clf):
    x = tiny.images(4)
    goal = Goal(clf(x).argmax(1))
    reached = [
        goal.maximise(clf(Patch(area=a, steps=30)(clf, x, goal, run=tiny.run_for(4))), margin)
        for a in (0.02, 0.3)
    ]
    assert (reached[1] > reached[0]).all()


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize(
    "word", ["cat", "Löwe", "кошка", "a very long label that no picture has room for", "m" * 80]
)
def test_a_word_is_written_whole(word, place, boxed):
    picture = Image.new("RGB", (224, 224), (90, 120, 60))
    out = write(picture, word, 30, place, boxed)
    assert picture.getpixel((0, 0)) == (90, 120, 60)
    changed = torch.from_numpy((np.asarray(out) != np.asarray(picture)).any(2))
    ys, xs = changed.nonzero(as_tuple=True)
    assert len(ys) > 50
    assert ys.min() >= EDGE - 4
    assert xs.min() >= EDGE - 4
    assert ys.max() <= 224 - EDGE + 3
    assert xs.max() <= 224 - EDGE + 3


def test_letters_are_letters_and_no_empty_boxes():
    picture = Image.new("RGB", (224, 224))
    drawn = {word: write(picture, word, 30, (0.5, 0.5), True).tobytes() for word in ("ö", "ü", "я")}
    assert len(set(drawn.values())) == 3
    with pytest.raises(InvalidParameter, match="no font here has “狗”"):
        write(picture, "狗", 30, (0.5, 0.5), True)


def test_typographic_delivers_the_worst_of_sixteen(clf):
    x = tiny.images(1)
    goal = Goal(clf(x).argmax(1))
    attack = Typographic(size=0.2)
    words = attack._words(clf, x, goal)
    out = attack(clf, x, goal, run=tiny.run_for(1))
    variants = torch.stack(attack._variants(x[0], words[0]))
    assert len(variants) == 16
    assert len({v.numpy().tobytes() for v in variants}) == 16
    values = goal.select(torch.zeros(16, dtype=torch.long)).maximise(clf(variants), margin)
    assert torch.equal(out[0], variants[values.argmax()])


def test_typographic_writes_the_strongest_wrong_word_the_right_one_or_the_target(clf):
    x = tiny.images(1)
    logits = clf(x)[0]
    right, second = logits.argsort(descending=True)[:2].tolist()
    goal = Goal(torch.tensor([right]))
    assert Typographic()._words(clf, x, goal) == [clf.labels[second]]
    assert Typographic(word="right label")._words(clf, x, goal) == [clf.labels[right]]
    allies = Goal(
        goal.labels, groups=torch.tensor([9 if i in (right, second) else i for i in range(4)])
    )
    assert Typographic()._words(clf, x, allies)[0] not in (clf.labels[right], clf.labels[second])
    target = Goal(torch.tensor([3]), targeted=True)
    assert Typographic()._words(clf, x, target) == [clf.labels[3]]
    with pytest.raises(InvalidParameter, match="leads to no other answer"):
        Typographic(word="right label")(clf, x, target, run=tiny.run_for(1))


# attacks on the embedding


def test_embedding_moves_away_and_labels_play_no_part(clf):
    x, attack = tiny.images(2), Embedding(eps=8 / 255, steps=5)
    runs = tiny.run_for(2), tiny.run_for(2)
    for run, goal in zip(runs, (clf(x).argmax(1), torch.tensor([2, 3])), strict=True):
        attack(clf, x, Goal(goal), run=run)
    ours, others = (torch.stack(run.trace["cosine"]) for run in runs)
    assert torch.equal(ours, others)
    assert (ours[-1] < ours[0]).all()
    with torch.no_grad():
        clean, brighter = (clf.encode_image(p) for p in (x, (x + 8 / 255).clamp(0, 1)))
    assert (ours[-1] < (clean * brighter).sum(1)).all()


def test_caption_approaches_the_text(clf):
    x = tiny.images(2)
    text = clf.text_features[[2, 3]]
    goal = Goal(torch.tensor([2, 3]), targeted=True, features=text)
    out = Caption(eps=8 / 255, steps=10)(clf, x, goal, run=tiny.run_for(2))
    with torch.no_grad():
        before, after = ((clf.encode_image(p) * text).sum(1) for p in (x, out))
    assert (after > before + 0.1).all()


def test_attacks_on_the_embedding_refuse_what_they_cannot_see(clf):
    x = tiny.images(1)
    goal = Goal(torch.tensor([1]), targeted=True)
    with pytest.raises(InvalidParameter, match="the goal names none"):
        Caption()(clf, x, goal, run=tiny.run_for(1))
    with pytest.raises(InvalidParameter, match="only its answers are visible"):
        Embedding()(lambda pixels: clf(pixels), x, goal, run=tiny.run_for(1))


# no gradient


def test_universal_is_the_stored_picture_cut_to_the_ball(clf):
    x, stored = tiny.images(2), clf.universal()
    assert stored.abs().max() > 4 / 255
    out = Universal(eps=4 / 255)(clf, x, Goal(torch.tensor([0, 0])), run=tiny.run_for(2))
    assert torch.equal(out, (x + stored.clamp(-4 / 255, 4 / 255)).clamp(0, 1))


def test_a_model_without_a_universal_perturbation_says_so(clf):
    own = clf.backbone
    other = tiny.classifier(Backbone("ViT-B-32", own.model, own.tokenizer, own.preprocess))
    with pytest.raises(MissingWeights, match="universal perturbation"):
        Universal()(other, tiny.images(1), Goal(torch.tensor([0])), run=tiny.run_for(1))


def test_noise_is_the_worst_of_its_draws(clf):
    x = tiny.images(1)
    goal, run = Goal(clf(x).argmax(1)), tiny.run_for(1)
    out = Noise(eps=8 / 255, draws=5)(clf, x, goal, run=run)
    series = torch.cat(run.trace["margin"])
    assert len(series) == 5
    torch.testing.assert_close(goal.maximise(clf(out), margin)[0].detach(), series.max())
    assert ((out - x).abs() * 255).max() <= 8.001


@pytest.mark.parametrize("attack", [Blur, JPEGControl])
def test_filters_obey_the_ball_unless_told_otherwise(clf, attack):
    x, goal = tiny.images(1), Goal(torch.tensor([0]))
    held = attack(eps=2 / 255)(clf, x, goal, run=tiny.run_for(1))
    free = attack(eps=2 / 255, same_budget=False)(clf, x, goal, run=tiny.run_for(1))
    assert (held - x).abs().max() <= 2 / 255 + 1e-6
    assert (free - x).abs().max() > 4 / 255
    torch.testing.assert_close(held, project_linf(free, x, 2 / 255))


def test_a_flat_picture_is_its_own_blur(clf):
    x = torch.full((1, 3, 32, 32), 100 / 255)
    out = Blur(same_budget=False)(clf, x, Goal(torch.tensor([0])), run=tiny.run_for(1))
    torch.testing.assert_close(out, x)


def test_square_keeps_a_change_only_where_it_helps():
    net, x = tiny.t0(), tiny.t0_images()
    run = tiny.run_for(16)
    Square(eps=4 / 255, queries=80)(net, x, Goal(net(x).argmax(1)), run=run)
    series = torch.stack(run.trace["margin"])
    assert (series.diff(dim=0) >= 0).all()
    assert (series[-1] > series[0]).any()


def test_square_changes_every_pixel_by_the_full_radius_or_to_the_end_of_its_range():
    net, x = tiny.t0(), middle(4, 32)
    out = Square(eps=4 / 255, queries=30)(net, x, Goal(net(x).argmax(1)), run=tiny.run_for(4))
    torch.testing.assert_close((out - x).abs(), torch.full_like(x, 4 / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "share"), [(1, 0.8), (11, 0.4), (51, 0.2), (201, 0.1), (8001, 0.8 / 512)]
)
def test_squares_shrink_on_the_papers_schedule(query, share):
    assert Square(rescale=False)._share(query) == pytest.approx(share)
    assert Square(queries=100, rescale=True)._share(query // 100) == pytest.approx(
        Square(rescale=False)._share(query // 100 * 100)
    )


def test_square_needs_square_pictures():
    with pytest.raises(InvalidImage, match="30×20"):
        Square()(
            lambda x: x, torch.zeros(1, 3, 20, 30), Goal(torch.tensor([0])), run=tiny.run_for(1)
        )


# the expectation over draws


def test_the_expectation_is_the_mean_gradient_of_its_draws():
    base, x, calls = tiny.Linear(k=3), middle(2), iter(range(100))

    def drawn(pixels):
        return base(pixels) * (1 + next(calls) % 4)

    goal = Goal(base(x).argmax(1))
    leaf = x.clone().requires_grad_()
    value, reached = eot_objective(drawn, goal, LOSSES["margin"], 4)(leaf)
    gradient = torch.autograd.grad(value.sum(), leaf)[0]
    alone = x.clone().requires_grad_()
    once = torch.autograd.grad(goal.maximise(base(alone), margin).sum(), alone)[0]
    torch.testing.assert_close(gradient, 2.5 * once)  # the mean of 1, 2, 3 and 4
    # all are held, by the most in the fourth: the margin is that of the worst draw
    torch.testing.assert_close(reached, goal.maximise(4 * base(x), margin))


@pytest.mark.parametrize(("draws", "steps"), [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_an_image_is_through_after_four_draws_and_not_after_a_lucky_one(draws, steps):
    goal, x = Goal(torch.tensor([0])), middle(1)
    lead = iter([9.0] * draws + [3.0] * 100)

    def drawn(pixels):
        return torch.tensor([[0.0, next(lead)]]) + 0 * pixels.sum()

    objective = eot_objective(drawn, goal, LOSSES["margin"], draws)
    seen = [objective(x)[1].item() for _ in range(steps + 1)]
    assert seen[: steps - 1] == [0.0] * (steps - 1)
    assert seen[steps - 1 :] == ([9.0, 3.0] if steps == 1 else [3.0, 3.0])


def test_an_unlucky_draw_counts_until_four_others_have_passed():
    goal, x = Goal(torch.tensor([0])), middle(1)
    lead = iter([3.0, 3.0, 3.0, -1.0, 3.0, 3.0, 3.0, 3.0])
    objective = eot_objective(
        lambda _: torch.tensor([[0.0, next(lead)]]), goal, LOSSES["margin"], 1
    )
    assert [objective(x)[1].item() for _ in range(8)] == [0, 0, 0, -1, -1, -1, -1, 3]


def test_the_expectation_holds_one_draw_at_a_time():
    class Big(torch.autograd.Function):
        alive = most = 0

        @staticmethod
        def forward(ctx, x):
            Big.alive += 1
            Big.most = max(Big.most, Big.alive)
            return x.flatten(1)[:, :3] * 2

        @staticmethod
        def backward(ctx, g):
            Big.alive -= 1
            out = torch.zeros(len(g), 192)
            out[:, :3] = 2 * g
            return out.view(-1, 3, 8, 8)

    leaf = middle(1).requires_grad_()
    eot_objective(Big.apply, Goal(torch.tensor([0])), LOSSES["margin"], 8)(leaf)
    assert (Big.most, Big.alive) == (1, 0)
