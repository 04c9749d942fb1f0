"""Deep prompts: the same blocks with other tokens, against hooks that do it from outside."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.transformer import Transformer

from tests import tiny
from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.deep_prompts import (
    CoupledPrompts,
    encode_text,
    initial_prompts,
    label_prompts,
)

PATCHES = pytest.mark.parametrize("name", tiny.WITH_PATCHES)
TOKENS = 1 + (tiny.VIT["image_size"] // tiny.VIT["patch_size"]) ** 2


def changed(name, text=None, vision=None):
    """A backbone whose towers differ from the tiny ones in a detail of their configuration."""
    before = tiny.CONFIGS[name]
    tiny.CONFIGS[name] = before | {
        "text_cfg": before["text_cfg"] | (text or {}),
        "vision_cfg": before["vision_cfg"] | (vision or {}),
    }
    try:
        model = tiny.seeded_model(name)
    finally:
        tiny.CONFIGS[name] = before
    preprocess = Preprocess(32, (0.5,) * 3, (0.5,) * 3)
    return Backbone(name, model, SimpleTokenizer(context_length=24), preprocess)


def labelled(backbone, labels=tiny.LABELS):
    return label_prompts(backbone, labels)


@contextlib.contextmanager
def hooked(*pairs):
    """(module, function on its first input) in force inside the block."""
    hooks = [
        module.register_forward_pre_hook(lambda _, given, f=f: (f(given[0]), *given[1:]))
        for module, f in pairs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def replacing(blocks, rows, at):
    """What a prompt learner does from outside: tokens `at` are new before every block but the first."""

    def put(x, i):
        x = x.clone()
        x[:, at] = rows[i]
        return x

    return [(blocks[i], lambda x, i=i: put(x, i)) for i in range(1, len(rows))]


# --- the image tower -----------------------------------------------------------------------------


@PATCHES
@pytest.mark.parametrize("depth", [1, 2])
def test_without_any_token_the_tower_is_the_plain_one(backbones, name, depth):
    x, none = tiny.images(2), torch.zeros(depth, 0, tiny.VIT["width"])
    plain = backbones[name].encode_image(x)
    torch.testing.assert_close(backbones[name].encode_prompted(x, none), plain)


@pytest.mark.parametrize(
    "vision",
    [
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"ls_init_value": 0.5},
        {"attentional_pool": True, "attn_pooler_heads": 4},
        {"qk_norm": True, "block_type": "custom"},
        {"patch_dropout": 0.5},
        {"layers": 1},
    ],
    ids=str,
)
def test_towers_of_other_details_are_reproduced(vision):
    backbone = changed("vit", vision=vision)
    x, none = tiny.images(2), torch.zeros(2, 0, tiny.VIT["width"])
    plain = backbone.encode_image(x)
    torch.testing.assert_close(backbone.encode_prompted(x, none), plain)
    some = backbone.encode_prompted(x, tiny.deep_prompts().image)
    assert some.shape == plain.shape
    assert not torch.allclose(some, plain, atol=1e-2)


@PATCHES
@pytest.mark.parametrize("depth", [1, 2])
def test_hooks_on_the_image_tower_give_the_same_values_and_gradients(backbones, name, depth):
    backbone = backbones[name]
    tower, x = backbone.visual, tiny.images(2)
    rows = tiny.deep_prompts(depth).image.requires_grad_()
    append = (tower.ln_pre, lambda t: torch.cat([t, rows[0].expand(len(t), -1, -1)], 1))
    deeper = replacing(tower.transformer.resblocks, rows, slice(TOKENS, TOKENS + 2))
    with hooked(append, *deeper):
        expected = backbone.encode_image(x)
    mine = backbone.encode_prompted(x, rows)
    torch.testing.assert_close(mine, expected)
    one, two = (torch.autograd.grad(z.square().sum(), rows)[0] for z in (mine, expected))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert (one.norm(dim=2) > 0).all()


def test_the_pictures_of_a_batch_do_not_meet(backbone):
    x, rows = tiny.images(3), tiny.deep_prompts().image
    single = torch.cat([backbone.encode_prompted(row[None], rows) for row in x])
    torch.testing.assert_close(backbone.encode_prompted(x, rows), single)


@pytest.mark.parametrize("name", ["resnet", "causal"])
def test_a_tower_without_tokens_is_refused_by_name(backbones, name):
    backbone = backbones[name]
    kind = type(backbone.visual).__name__
    for refused in (
        lambda: backbone.encode_prompted(tiny.images_for(backbone), tiny.deep_prompts().image),
        lambda: initial_prompts(backbone, labelled(backbone)),
    ):
        with pytest.raises(MethodFailed, match=f"vision transformer; {kind} is another kind"):
            refused()


# --- the text tower ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_words_themselves_in_the_first_block_are_the_plain_prompts(backbones, name):
    backbone = backbones[name]
    labels = labelled(backbone)
    ids = backbone.tokenize([f"a photo of a {label}." for label in tiny.LABELS])
    expected = backbone.encode_ids(ids)
    mine = encode_text(labels, labels.initial[None])
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vit", {}),
        ("bidirectional", {}),
        ("vit", {"pool_type": "eos", "eos_id": 49407}),
        ("vit", {"pool_type": "last"}),
        ("bidirectional", {"pool_type": "first"}),
    ],
    ids=str,
)
def test_hooks_on_the_text_tower_give_the_same_values_and_gradients(name, text):
    backbone = changed(name, text=text)
    labels, rows = labelled(backbone), tiny.deep_prompts().text.requires_grad_()
    place = slice(1, 3)
    tower = backbone.text

    def words(_module, _inputs, output):
        return torch.cat([output[:, :1], rows[0].expand(len(output), -1, -1), output[:, 3:]], 1)

    hook = tower.token_embedding.register_forward_hook(words)
    try:
        with hooked(*replacing(tower.transformer.resblocks, rows, place)):
            ids = backbone.tokenize([f"a photo of a {label}." for label in tiny.LABELS])
            expected = backbone.encode_ids(ids)
    finally:
        hook.remove()
    mine = encode_text(labels, rows)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    one, two = (torch.autograd.grad(t.square().sum(), rows)[0] for t in (mine, expected))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert (one.norm(dim=2) > 0).all()


def test_the_prompt_is_words_and_the_label_without_braces(backbone):
    """The authors' prompts keep the template's literal braces: "a photo of a {}. cat."."""
    labels = labelled(backbone)
    assert labels.span == slice(1, 3)
    words = backbone.text.token_embedding(backbone.tokenize(["a photo"])[0, 1:3])
    torch.testing.assert_close(labels.initial, words)
    texts = [backbone.tokenizer.decode(row[3:].tolist()) for row in labels.ids]
    behind = [text.partition("<end_of_text>")[0].strip() for text in texts]
    assert behind == [f"of a {label} ." for label in tiny.LABELS]


def test_a_label_beyond_the_context_window_is_refused(backbone):
    with pytest.raises(InvalidLabels, match="tokens; this model reads 24"):
        labelled(backbone, ["cat", " ".join("x" * 30)])


# --- both ----------------------------------------------------------------------------------------


@PATCHES
@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_block_makes_of_its_prompts_is_replaced_before_the_next(backbones, name, depth):
    backbone = backbones[name]
    labels, rows, x = labelled(backbone), tiny.deep_prompts(depth), tiny.images(2)

    def overwriting(at):
        def hook(_module, _inputs, output):
            output = output.clone()
            output[:, at] = 7.0
            return output

        return hook

    def features():
        return backbone.encode_prompted(x, rows.image), encode_text(labels, rows.text)

    before = features()
    first = (backbone.visual.transformer.resblocks[0], backbone.text.transformer.resblocks[0])
    places = (slice(TOKENS, TOKENS + 2), labels.span)
    hooks = [b.register_forward_hook(overwriting(at)) for b, at in zip(first, places, strict=True)]
    try:
        after = features()
    finally:
        for hook in hooks:
            hook.remove()
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two) is (depth == 2)


@PATCHES
def test_every_block_sees_as_many_tokens_as_the_first(backbones, name):
    backbone = backbones[name]
    labels, rows, seen = labelled(backbone), tiny.deep_prompts(), []
    blocks = [*backbone.visual.transformer.resblocks, *backbone.text.transformer.resblocks]

    def count(x):
        seen.append(x.shape[1])
        return x

    with hooked(*((block, count) for block in blocks)):
        backbone.encode_prompted(tiny.images(1), rows.image)
        encode_text(labels, rows.text)
    assert seen == [TOKENS + 2] * 2 + [labels.ids.shape[1]] * 2


def test_a_transformer_that_wants_the_batch_second_computes_the_same():
    one, two = changed("vit"), changed("vit")
    rows, x = tiny.deep_prompts(), tiny.images(2)
    for tower in (two.visual, two.text):
        old = tower.transformer
        heads = old.resblocks[0].attn.num_heads
        new = Transformer(old.width, old.layers, heads, batch_first=False).eval()
        new.load_state_dict(old.state_dict())
        tower.transformer = new
    torch.testing.assert_close(
        two.encode_prompted(x, rows.image), one.encode_prompted(x, rows.image)
    )
    torch.testing.assert_close(
        encode_text(labelled(two), rows.text), encode_text(labelled(one), rows.text)
    )


@PATCHES
def test_prompted_passes_leave_no_trace(backbones, name):
    backbone = backbones[name]
    rows, x = tiny.deep_prompts(), tiny.images(2).requires_grad_()
    with tiny.no_trace(backbone.model):
        z = F.normalize(backbone.encode_prompted(x, rows.image), dim=1)
        t = F.normalize(encode_text(labelled(backbone), rows.text), dim=1)
        gradient = torch.autograd.grad((z @ t.T)[:, 0].sum(), x)[0]
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert not t.requires_grad


# --- what is trained -----------------------------------------------------------------------------


def test_vit_b_32_has_3557120_parameters_and_keeps_23040():
    prompts = CoupledPrompts(torch.zeros(2, 512), 768)
    count = sum(p.numel() for p in prompts.parameters())
    assert count == 3_557_120
    assert count == 2 * 512 + (512 * 768 + 768) + 8 * 2 * 768 + 8 * (768 * 512 + 512)
    kept = prompts().tensors()
    assert {k: tuple(v.shape) for k, v in kept.items()} == {
        "image": (9, 2, 768),
        "text": (9, 2, 512),
    }
    assert sum(v.numel() for v in kept.values()) == 23_040
    assert not any(v.requires_grad for v in kept.values())


def test_prompts_start_as_published():
    words = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    prompts = CoupledPrompts(words, 4096).requires_grad_(False)
    assert torch.equal(prompts.context, words)
    assert float(prompts.image.std()) == pytest.approx(0.02, rel=0.02)
    assert prompts.image.mean().abs() < 1e-3
    for layer in (prompts.to_image, *prompts.to_text):
        bound = layer.in_features**-0.5
        for value in (layer.weight, layer.bias):
            assert value.abs().max() <= bound
            assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.2)
    first, *others = prompts.to_text
    assert all(torch.equal(first.weight, o.weight) for o in others)
    assert all(first.weight is not o.weight for o in others)


def test_text_leads_in_the_first_block_and_pictures_in_the_deeper_ones():
    prompts = CoupledPrompts(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)), 8, 4)
    rows = prompts()
    assert torch.equal(rows.text[0], prompts.context)
    torch.testing.assert_close(rows.image[0], F.linear(prompts.context, *_of(prompts.to_image)))
    for i in range(1, 4):
        assert torch.equal(rows.image[i], prompts.image[i - 1])
        expected = F.linear(prompts.image[i - 1], *_of(prompts.to_text[i - 1]))
        torch.testing.assert_close(rows.text[i], expected)


def _of(layer):
    return layer.weight, layer.bias


def test_initial_prompts_depend_on_the_seed_only():
    state = torch.get_rng_state()
    one, two, other = (CoupledPrompts(torch.zeros(2, 6), 8, 3, seed) for seed in (0, 0, 1))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.image, other.image)
    assert not torch.equal(one.to_image.weight, other.to_image.weight)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("blocks", "asked", "depth"),
    [((2, 2), 9, 2), ((12, 11), 9, 9), ((3, 1), 9, 1), ((1, 3), 9, 1), ((4, 5), 3, 3)],
)
def test_the_depth_is_that_of_the_shallower_tower_at_most(blocks, asked, depth):
    image, text = blocks
    backbone = changed("vit", text={"layers": text}, vision={"layers": image})
    labels = labelled(backbone)
    rows = initial_prompts(backbone, labels, asked)()
    assert rows.image.shape == (depth, 2, tiny.VIT["width"])
    assert rows.text.shape == (depth, 2, tiny.TEXT["width"])
    torch.testing.assert_close(rows.text[0], labels.initial)
    assert backbone.encode_prompted(tiny.images(1), rows.image).isfinite().all()
    assert encode_text(labels, rows.text).isfinite().all()
