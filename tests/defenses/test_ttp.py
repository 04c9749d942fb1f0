"""TTP: the frame, the gate on both sides, the step on the chosen views, and the weights."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.multiview import confident, entropy
from vlmdefense_demo.defenses.test_time.ttp import TTP
from vlmdefense_demo.defenses.views import random_views

OPEN, SHUT = 1.0, 0.0
CLEAN = "judged clean: the plain answer"


def answer(clf, x, **settings):
    method = TTP(**{"views": 4, "threshold": OPEN} | settings)
    return method(clf, x, run=tiny.run_for(len(x)))


def framed(clf, x, method):
    """Unit-norm features inside the black frame."""
    return clf.encode_image(method._around(x, torch.zeros_like(x)))


def drawn(x, method):
    """What a call draws: the views, those it tunes on come later, and the frame it starts from."""
    run = tiny.run_for(len(x))
    views = random_views(x, method.views, run.child("views")).unflatten(0, (len(x), -1))
    frames = run.child("frame").uniform(x, 0.0, 10 / 255).unsqueeze(1)
    return views, frames


# --- the frame -----------------------------------------------------------------------------------


def test_the_frame_is_32_pixels_of_224_and_grows_with_the_input():
    for size, width in ((224, 32), (336, 48), (32, 5)):
        x = torch.full((1, 3, size, size), 0.5)
        out = TTP()._around(x, torch.ones_like(x))
        inside = out[..., width:-width, width:-width]
        assert inside.shape[-1] == size - 2 * width
        torch.testing.assert_close(inside, torch.full_like(inside, 0.5))
        assert (out == 1).sum() == 3 * (size**2 - (size - 2 * width) ** 2)


def test_the_whole_picture_is_shrunk_into_the_frame():
    x = torch.zeros(1, 3, 224, 224)
    x[..., :8, :] = 1  # a stripe at the very edge is still seen, at the top of the inside
    out = TTP()._around(x, torch.zeros_like(x))
    assert out[0, 0, 32, 112] > 0.9
    assert out[0, 0, 31].max() == 0
    assert out[0, 0, 48:].max() == 0


def test_the_frame_reaches_no_pixel_of_the_picture():
    x, noise = tiny.images(2), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    black, full = (TTP()._around(x, f)[..., 5:-5, 5:-5] for f in (torch.zeros_like(x), noise))
    assert torch.equal(black, full)


# --- the gate ------------------------------------------------------------------------------------


def test_a_picture_judged_clean_gets_the_plain_answer_for_two_forwards(clf):
    x = tiny.images(3)
    cosines = [n[0].value["value"] for n in answer(clf, x).notes]
    clean = x[[i for i, c in enumerate(cosines) if c > 0]]
    assert len(clean)
    with clf.meter.stage() as cost:
        out = answer(clf, clean, threshold=SHUT)
    assert (cost.image_forward, cost.image_backward) == (2 * len(clean), 0)
    torch.testing.assert_close(out.logits, clf(clean))
    assert {n[1].value for n in out.notes} == {CLEAN}


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("views", [2, 4, 30])
def test_an_open_gate_costs_the_views_and_the_chosen_ones_again(clf, views, steps):
    x, n = tiny.images(2), max(2, round(0.1 * views))
    with clf.meter.stage() as cost:
        answer(clf, x, views=views, steps=steps)
    assert cost.image_forward == 2 * (2 + views - 1 + n * steps + n)
    assert cost.image_backward == 2 * n * steps


def test_the_gate_is_the_cosine_with_the_black_frame(clf):
    x = tiny.images(3)
    expected = (clf.encode_image(x) * framed(clf, x, TTP())).sum(1)
    found = [n[0].value["value"] for n in answer(clf, x).notes]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_mixed_batch_adapts_to_the_flagged_images_only_and_pays_for_them_alone(clf):
    x = tiny.images(6)
    alone = answer(clf, x)
    cosines = [n[0].value["value"] for n in alone.notes]
    middle = sum(sorted(cosines)[2:4]) / 2
    with clf.meter.stage() as cost:
        out = answer(clf, x, threshold=middle)
    clean = [c > middle for c in cosines]
    assert [n[1].value == CLEAN for n in out.notes] == clean
    expected = torch.where(torch.tensor(clean)[:, None], clf(x), alone.logits)
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-4)
    per_image = TTP(views=4).expected_cost(4)
    assert 0 < sum(clean) < 6
    flagged = 6 - sum(clean)
    assert cost.image_forward == 2 * sum(clean) + flagged * per_image.image_forward
    assert cost.image_backward == flagged * per_image.image_backward


# --- the step and the vote -----------------------------------------------------------------------


def full_gradient(clf, views, frames, chosen, method):
    """Of the same loss through all views of one image, as if nothing had been left out."""
    leaf = frames.clone().requires_grad_()
    logits = clf.logits(clf.encode_image(method._around(views, leaf)))
    return torch.autograd.grad(entropy(logits)[chosen].mean(), leaf)[0]


def test_choosing_first_gives_the_gradient_of_all_views(clf):
    x, method = tiny.images(1), TTP(views=20)
    views, frames = drawn(x, method)
    chosen = confident(clf(views[0]))
    whole = full_gradient(clf, views[0], frames[0], chosen, method)
    picked = full_gradient(clf, views[0][chosen], frames[0], slice(None), method)
    torch.testing.assert_close(picked, whole, rtol=0, atol=1e-6)


def test_the_answer_worked_out_by_hand(clf):
    """Two views of four, one signed step, weights from the two cosines, mixed probabilities."""
    x, method = tiny.images(1), TTP(views=4, step_size=8 / 255)
    views, frames = drawn(x, method)
    chosen = confident(clf(views[0]))
    assert len(chosen) == 2
    gradient = full_gradient(clf, views[0][chosen], frames[0], slice(None), method)
    after = (frames[0] - 8 / 255 * gradient.sign()).clamp(0, 1)
    z = clf.encode_image(method._around(views[0][chosen], after))
    score = z @ framed(clf, x, method)[0] - z @ clf.encode_image(x)[0]
    expected = score.softmax(0) @ clf.logits(z).softmax(1)
    out = answer(clf, x, step_size=8 / 255)
    torch.testing.assert_close(out.logits[0].exp(), expected, rtol=1e-4, atol=1e-5)
    entropies = out.notes[0][2].value
    before = entropy(clf(method._around(views[0][chosen], frames[0]))).mean()
    assert entropies == pytest.approx([float(before), float(entropy(clf.logits(z)).mean())], 1e-3)


def test_views_near_the_framed_picture_and_far_from_the_attacked_one_count_more(clf):
    x = tiny.images(1)
    method = TTP(views=30, threshold=OPEN)
    own, black = method._pair(clf, x)
    found = method._adapt(clf, x, own, black, tiny.run_for(1))
    z = clf.encode_image(found.pictures[0])
    expected = (z @ black[0] - z @ own[0]).exp()
    weights = found.ballots[0].weights
    torch.testing.assert_close(weights, expected / expected.sum(), rtol=1e-5, atol=1e-6)
    assert weights.max() > 1.01 * weights.min()


def test_a_small_step_lowers_the_entropy_of_the_views(clf):
    for notes in answer(clf, tiny.images(6), step_size=0.5 / 255).notes:
        before, after = notes[2].value
        assert after < before


def test_the_tuned_frame_stays_a_picture_and_is_each_images_own(clf):
    x, method = tiny.images(2), TTP(views=4, threshold=OPEN, step_size=64 / 255, steps=4)
    own, black = method._pair(clf, x)
    found = method._adapt(clf, x, own, black, tiny.run_for(2))
    edge = method._around(torch.zeros_like(x), torch.ones_like(x)).bool()
    frames = found.frames[:, 0]
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert (frames > 64 / 255)[edge].any()
    assert not torch.equal(frames[0][edge[0]], frames[1][edge[1]])


def test_the_order_of_calls_does_not_matter(clf):
    a, b = tiny.images(2).split(1)
    first = answer(clf, b).logits
    answer(clf, a)
    assert torch.equal(answer(clf, b).logits, first)


def test_the_views_show_in_the_exhibit_only_if_the_gate_opened(clf):
    pair, run = tiny.images(2), tiny.run_for(1)
    cosine = answer(clf, pair[1:]).notes[0][0].value["value"]
    opened, shut = (
        TTP(views=4, threshold=t).exhibit(clf, pair, 0, run=run) for t in (OPEN, cosine - 0.01)
    )
    assert [len(note.value) for note in opened] == [2, 2]
    assert [len(note.value) for note in shut] == [1]


# --- who attacks ---------------------------------------------------------------------------------


def test_the_attacker_looks_at_the_picture_and_its_frame_while_the_gate_is_shut(clf):
    x = tiny.images(1)
    method = TTP(threshold=answer(clf, x).notes[0][0].value["value"] - 0.01)
    target = method.surrogate(clf, tiny.run_for(1))
    x.requires_grad_()
    with torch.enable_grad():
        answered = target(x)
        both = torch.stack([clf(x), clf.logits(framed(clf, x, method))]).log_softmax(-1)
        slopes = [torch.autograd.grad(y[:, 0].sum(), x)[0] for y in (answered, both.mean(0))]
    torch.testing.assert_close(answered, both[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)


def test_the_attacker_votes_with_fresh_views_once_the_gate_is_open(clf):
    x = tiny.images(1)
    target = TTP(threshold=OPEN).surrogate(clf, tiny.run_for(1))
    first, second = target(x), target(x)
    assert not torch.equal(first, second)
    torch.testing.assert_close(second.exp().sum(1), torch.ones(1), rtol=1e-3, atol=1e-3)
    plain = clf(x).log_softmax(1)
    assert not torch.allclose(second, plain, atol=1e-2), "the vote decides whether it is through"
