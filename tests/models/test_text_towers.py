"""Every kind of text tower open_clip builds, against open_clip's own `encode_text`."""

from __future__ import annotations

import json
import re
import zlib

import open_clip
import pytest
import torch
import torch.nn.functional as F
import transformers
from open_clip.hf_model import MaxPooler
from torch import nn

from tests import tiny
from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.models import deep_prompts, prompts
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.prompts import ContextPrompts, placeholders
from vlmdefense_demo.models.text_towers import CoCaTower, HFTower, NativeTower, open_tower

TEMPLATES = ("a photo of a {}.", "an image showing the {} in the snow", "the {}")
LABELS = ("cat", "a very long label with words", "dog")
LENGTH = 24
COCA_VIT = tiny.VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
DECODER = {"context_length": LENGTH, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1}
BERT = {
    "vocab_size": 999,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
MT5 = {"vocab_size": 999, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
M2M = {
    "vocab_size": 999,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
}
# name -> open_clip's text configuration, start marks, pad id
NATIVE = {
    "siglip": (
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "context_length": 64},
        (),
        1,
    ),
    "worldwide": ({"pool_type": "eos", "eos_id": 2}, (3,), 0),
    "coca": ({"embed_cls": True, "output_tokens": True}, (3,), 0),
}
# name -> the encoder's configuration, open_clip's keys, start marks, pad id
HF = {
    "roberta": (transformers.RobertaConfig(**BERT), {"hf_pooler_type": "mean_pooler"}, (3,), 1),
    "xlm-roberta": (
        transformers.XLMRobertaConfig(**BERT),
        {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
        (3,),
        1,
    ),
    "bert": (transformers.BertConfig(**BERT), {"hf_pooler_type": "cls_pooler"}, (3,), 0),
    "bert last": (
        transformers.BertConfig(**BERT),
        {"hf_pooler_type": "cls_last_hidden_state_pooler"},
        (3,),
        0,
    ),
    "mt5": (transformers.MT5Config(**MT5), {"hf_pooler_type": "mean_pooler"}, (), 0),
    "m2m": (transformers.M2M100Config(**M2M), {"hf_pooler_type": "cls_pooler"}, (3, 4), 1),
    "coca roberta": (
        transformers.RobertaConfig(**BERT),
        {"hf_pooler_type": "mean_pooler", "output_tokens": True},
        (3,),
        1,
    ),
}
KINDS = (*NATIVE, *HF)


class Words:
    """One id a word: start marks, words, the end mark, padding, as open_clip's HFTokenizer gives."""

    def __init__(self, start=(), pad=0, length=LENGTH, end=2):
        self.start, self.pad, self.length, self.end = list(start), pad, length, end

    def __call__(self, texts):
        rows = torch.full((len(texts), self.length), self.pad)
        for row, text in zip(rows, texts, strict=True):
            words = re.findall(r"\w+|[^\w\s]", text)
            ids = [*self.start, *(zlib.crc32(w.encode()) % 900 + 10 for w in words), self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def built(kind, folder, seed=0, **more):
    """A backbone with random weights that spread its features."""
    coca = "coca" in kind
    if kind in NATIVE:
        config, start, pad = NATIVE[kind]
        text = tiny.TEXT | {"vocab_size": 999} | config
    else:
        config, text, start, pad = HF[kind]
        config.save_pretrained(folder)
        text = text | {"hf_model_name": str(folder), "hf_model_pretrained": False}
    parts = {"vision_cfg": COCA_VIT if coca else tiny.VIT, "text_cfg": text | more}
    if coca:
        parts["multimodal_cfg"] = DECODER
    kinds = {"coca": open_clip.CoCa, "coca roberta": open_clip.CoCa, "worldwide": open_clip.CLIP}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make = kinds.get(kind, open_clip.CustomTextCLIP)
        model = make(embed_dim=24, **json.loads(json.dumps(parts))).eval()
        for key, value in model.named_parameters():
            if value.dim() >= 2 or key.endswith("bias"):
                nn.init.normal_(value, std=0.3)
    length = text.get("context_length", LENGTH)
    preprocess = Preprocess(32, (0.5,) * 3, (0.5,) * 3)
    return Backbone(kind, model, Words(start, pad, length), preprocess)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """kind -> backbone"""
    return {kind: built(kind, tmp_path_factory.mktemp("encoder")) for kind in KINDS}


@pytest.fixture(params=KINDS)
def backbone(request, towers):
    return towers[request.param]


def prompts_of(labels=LABELS, template=TEMPLATES[0]):
    return [template.replace("{}", label) for label in labels]


def opened(backbone, labels=LABELS, template=TEMPLATES[0]):
    return ContextPrompts(backbone, prompts_of(labels, template), template.split("{}")[0].strip())


def encoded(backbone, labels=LABELS, template=TEMPLATES[0]):
    return backbone.encode_ids(backbone.tokenize(prompts_of(labels, template)))


def hooked(backbone, ours, context):
    """`encode_text` with the words' embeddings replaced from outside, as a prompt learner does."""
    tower = backbone.text
    if hasattr(tower, "token_embedding"):
        embedding = tower.token_embedding
    else:
        embedding = tower.transformer.get_input_embeddings()

    def replace(_module, _inputs, output):
        shared = context.expand(len(output), -1, -1)
        return torch.cat([output[:, : ours.span.start], shared, output[:, ours.span.stop :]], 1)

    hook = embedding.register_forward_hook(replace)
    try:
        return encoded(backbone)
    finally:
        hook.remove()


def gradient(features, context, **more):
    weights = torch.linspace(-1, 1, features.numel()).view_as(features)
    return torch.autograd.grad((weights * features).sum(), context, **more)[0]


def same(mine, expected, share=1e-4):
    """Largest difference, against the largest value."""
    assert (mine - expected).abs().max() <= share * expected.abs().max()


def test_each_kind_is_opened_as_what_it_is(towers):
    found = {kind: type(open_tower(b.text)) for kind, b in towers.items()}
    expected = dict.fromkeys(HF, HFTower) | dict.fromkeys(NATIVE, NativeTower)
    assert found == expected | {"coca": CoCaTower}


@pytest.mark.parametrize("template", TEMPLATES)
def test_hand_context_reproduces_encode_text(backbone, template):
    ours, expected = opened(backbone, LABELS, template), encoded(backbone, LABELS, template)
    same(ours.encode(ours.initial), expected, 1e-5)
    a, b = F.normalize(expected[:2], dim=1)
    assert (a - b).norm() > 1e-2  # the labels differ, so that equality says something


def test_a_hook_on_the_embedding_gives_the_same_values_and_gradients(backbone):
    ours = opened(backbone)
    noise = torch.randn(ours.initial.shape, generator=torch.Generator().manual_seed(0))
    context = (ours.initial + 0.3 * noise).requires_grad_()
    expected, mine = hooked(backbone, ours, context), ours.encode(context)
    same(mine, expected, 1e-5)
    same(gradient(mine, context), gradient(expected, context))
    assert (mine - encoded(backbone)).abs().max() > 1e-2 * mine.abs().max()
    assert (gradient(ours.encode(context), context).norm(dim=1) > 0).all()


def test_tuning_leaves_no_trace(backbone):
    ours = opened(backbone)
    context = ours.initial.clone().requires_grad_()
    with tiny.no_trace(backbone.text):
        assert gradient(ours.encode(context), context).isfinite().all()


def test_ids_are_trimmed_only_where_that_is_exact(backbone):
    longest = int(backbone.tokenize(prompts_of()).ne(backbone.tokenizer.pad).sum(1).max())
    full = {"siglip": 64, "coca": LENGTH}
    assert opened(backbone).ids.shape[1] == full.get(backbone.name, longest)
    assert longest < LENGTH


def test_the_context_starts_behind_the_start_marks(backbone):
    start = len(backbone.tokenizer.start)
    assert opened(backbone).span == slice(start, start + 4)  # a photo of a
    assert opened(backbone, ("red car", "red bus")).span == slice(start, start + 4)
    assert placeholders(backbone, LABELS, 3).span == slice(start, start + 3)


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_both_masks_of_an_appended_class_token_are_reproduced(tmp_path, correct, causal):
    backbone = built("coca", tmp_path, no_causal_mask=not causal)
    backbone.text.correct_cls_mask = correct
    ours = opened(backbone)
    same(ours.encode(ours.initial), encoded(backbone), 1e-5)


def test_text_features_of_coca_are_not_normalised(towers):
    features = encoded(towers["coca"])
    assert (features.norm(dim=1) - 1).abs().min() > 1e-2
    expected = towers["coca"].model.encode_text(towers["coca"].tokenize(prompts_of()))
    same(F.normalize(features, dim=1), expected, 1e-5)


def test_a_tower_of_another_kind_is_refused_by_name(towers):
    class Recurrent(nn.Module):
        pass

    with pytest.raises(MethodFailed, match="Recurrent is another kind"):
        open_tower(Recurrent())


def test_maximum_pooling_is_refused_because_open_clip_fails_there(tmp_path):
    backbone = built("roberta", tmp_path, hf_pooler_type="max_pooler")
    assert isinstance(backbone.text.pooler, MaxPooler)
    with pytest.raises(RuntimeError):
        encoded(backbone)
    with pytest.raises(MethodFailed, match="maximum pooling"):
        opened(backbone)


def test_a_tower_without_pooling_is_refused(tmp_path):
    with pytest.raises(MethodFailed, match="one feature a token"):
        opened(built("siglip", tmp_path, pool_type="none"))


def test_padding_before_the_words_is_refused_where_encoders_count_positions(towers):
    backbone = towers["roberta"]

    def left(texts):
        return backbone.tokenizer(texts).flip(1)

    flipped = Backbone("left", backbone.model, left, backbone.preprocess)
    with pytest.raises(MethodFailed, match="pads before the words"):
        opened(flipped)


def test_words_to_be_learned_that_are_several_tokens_are_refused(towers):
    backbone = towers["siglip"]

    def doubled(texts):
        return backbone.tokenizer([text.replace("X", "x x") for text in texts])

    other = Backbone("doubled", backbone.model, doubled, backbone.preprocess)
    with pytest.raises(MethodFailed, match="6 tokens of 3 words"):
        placeholders(other, LABELS, 3)


def test_deep_prompts_enter_native_towers_only(towers):
    for kind in ("siglip", "worldwide", "coca"):
        labels = deep_prompts.label_prompts(towers[kind], LABELS)
        mine = deep_prompts.encode_text(labels, labels.initial[None])
        same(mine, encoded(towers[kind]), 1e-5)
    labels = deep_prompts.label_prompts(towers["roberta"], LABELS)
    for call in (
        lambda: deep_prompts.encode_text(labels, labels.initial[None]),
        lambda: deep_prompts.initial_prompts(towers["roberta"], labels),
    ):
        with pytest.raises(MethodFailed, match="own text transformer"):
            call()


def kept(ours, context):
    """Features, and the elements autograd keeps for their gradient."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return ours.encode(context), sum(sizes)


def test_many_tokens_keep_few_activations_and_change_no_number(backbone, monkeypatch):
    labels = [f"thing {i}" + " or other" * (i % 4) for i in range(100)]
    ours = opened(backbone, labels)
    context = ours.initial.clone().requires_grad_()
    monkeypatch.setattr(prompts, "TOKENS", 10**9)
    whole, most = kept(ours, context)
    expected = gradient(whole, context)

    monkeypatch.setattr(prompts, "TOKENS", 33 * ours.ids.shape[1] + 1)
    rows, encode = [], ours.tower.encode
    spied = lambda words, ids: rows.append(len(ids)) or encode(words, ids)  # noqa: E731
    monkeypatch.setattr(ours.tower, "encode", spied)
    features, few = kept(ours, context)
    assert rows == [33, 33, 33, 1]
    assert few < most / 10
    same(features, whole, 1e-5)
    same(gradient(features, context, retain_graph=True), expected)
    same(gradient(features, context), expected)  # the hand prompt's graph is walked again and again
    assert sorted(rows) == sorted([33, 33, 33, 1] * 3)


def test_few_tokens_are_not_computed_twice(backbone):
    ours = opened(backbone)
    context = ours.initial.clone().requires_grad_()
    calls = []
    hook = backbone.text.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        gradient(ours.encode(context), context)
    finally:
        hook.remove()
    assert len(calls) == 1
