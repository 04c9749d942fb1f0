"""Robust towers and learned prompts: which there are, how they load, and mixing with the clean one."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.models import catalog, variants
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import ASSETS, MODELS, POCKET, entry_of, load_model
from vlmdefense_demo.models.variants import (
    MANIFEST,
    PUBLISHED,
    Variant,
    between,
    find,
    folder_of,
    forget_models,
    load_learned,
    load_twin,
    megabytes,
    missing,
    write_variant,
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch):
    """Towers loaded here are not handed to other tests."""
    monkeypatch.setattr(catalog, "_loaded", {})
    monkeypatch.setattr(variants, "_towers", {})


@pytest.fixture
def folder(model_dirs, tmp_path):
    """A copy of the tiny ViT's directory that a test may damage."""
    return shutil.copytree(model_dirs["vit"], tmp_path / "model")


def load(path):
    return load_model(f"local-dir:{path}", "cpu")


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def published(backbone, name="ViT-B-32"):
    """The backbone under a name whose towers are hf-hub addresses."""
    return Backbone(name, backbone.model, backbone.tokenizer, backbone.preprocess)


# --- which there are -----------------------------------------------------------------------------


def test_published_towers_belong_to_known_models_and_say_what_was_published():
    assert set(PUBLISHED) < set(MODELS)
    for row in (v for rows in PUBLISHED.values() for v in rows):
        assert row.source.startswith("hf-hub:chs20/")
        assert f"{row.eps:g}" in row.source
        assert row.method in row.source.lower()
        assert "published" in row.accuracy
        assert "README" in row.accuracy


def test_the_embedded_models_files_are_those_of_its_manifest():
    rows = json.loads((POCKET / MANIFEST).read_text())
    listed = {row["source"] for row in rows}
    there = {p.name for p in POCKET.glob("*.safetensors")} - {"open_clip_model.safetensors"}
    assert listed == there
    for row in rows:
        assert row["recipe"]
        assert row["data"]
        assert row["eps"] > 0


@pytest.mark.parametrize(
    ("eps", "source"), [(0, "fare4-clip"), (2, "fare2-clip"), (4, "fare4-clip")]
)
def test_a_tower_is_chosen_by_family_and_eps(eps, source):
    assert find("ViT-L-14", "fare", eps).source == f"hf-hub:chs20/{source}"


def test_an_eps_that_was_not_trained_names_those_that_were():
    with pytest.raises(MissingWeights) as caught:
        find("ViT-L-14", "tecoa", 1)
    assert "no tecoa tower trained at 1/255 for ViT-L-14" in str(caught.value)
    assert "2, 4 of 255" in str(caught.value)


def test_a_model_without_the_method_names_those_that_have_it():
    with pytest.raises(MissingWeights) as caught:
        find("RN50-openai", "tecoa")
    assert str(caught.value) == missing("RN50-openai", "tecoa")
    for name in MODELS:
        listed = name in str(caught.value).split(":")[-1].strip(" .").split(", ")
        assert listed == (name != "RN50-openai" and not missing(name, "tecoa")), name
    assert "No model has them yet." in missing("RN50-openai", "nonsense")
    assert missing("ViT-L-14", "tecoa") == ""


# --- files beside the model ----------------------------------------------------------------------


def test_a_local_tower_is_found_beside_its_model(folder):
    twin = load_twin(load(folder), "fare")
    visual = twin.visual.state_dict()
    assert all(torch.equal(visual[k], v) for k, v in load_file(folder / "fare.safetensors").items())
    assert twin.twin == "fare"


def test_a_local_tower_in_half_precision_is_used_in_full(folder):
    half = {k: v.half() for k, v in load_file(folder / "fare.safetensors").items()}
    write_variant(folder, Variant("fare", "fare.safetensors", 3), half)
    twin = load_twin(load(folder), "fare")
    assert {p.dtype for p in twin.visual.parameters()} == {torch.float32}


def test_a_damaged_file_is_a_sentence_and_harms_nothing(folder):
    backbone = load(folder)
    (folder / "fare.safetensors").write_bytes(b"\0" * 64)
    with tiny.no_trace(backbone.model), pytest.raises(MissingWeights, match="damaged"):
        load_twin(backbone, "fare")


def test_a_file_that_is_gone_is_a_sentence(folder):
    (folder / "tecoa_vp.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"tecoa_vp\.safetensors could not be loaded"):
        load_learned(load(folder), "tecoa_vp")


def test_a_tower_of_another_architecture_is_a_sentence(folder, model_dirs):
    backbone = load(folder)
    theirs = load_file(model_dirs["resnet"] / "fare.safetensors")
    write_variant(folder, Variant("fare", "fare.safetensors", 3), theirs)
    with tiny.no_trace(backbone.model), pytest.raises(MissingWeights, match="could not be loaded"):
        load_twin(backbone, "fare")


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"what": 1}]'])
def test_a_broken_manifest_is_a_sentence(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(MissingWeights):
        load_twin(load(folder), "fare")


def test_writing_again_replaces_the_line_and_keeps_the_others(folder):
    before = {v.source for v in variants._listed(folder)}
    write_variant(folder, Variant("fare", "fare.safetensors", 2, "again"), {"a": torch.ones(1)})
    after = {v.source: v for v in variants._listed(folder)}
    assert set(after) == before
    assert (after["fare.safetensors"].eps, after["fare.safetensors"].recipe) == (2, "again")
    assert not list(folder.glob("*.partial"))


def test_learned_tensors_come_in_full_precision(folder):
    frame = load_learned(load(folder), "tecoa_vp")
    assert set(frame) == {"top", "bottom", "left", "right"}
    assert {v.dtype for v in frame.values()} == {torch.float32}


def test_what_is_trained_for_a_downloaded_model_lies_in_its_own_folder(model_dirs):
    assert folder_of(entry_of("ViT-B-32")) == ASSETS / "learned" / "ViT-B-32"
    assert folder_of(entry_of("pocket")) == POCKET
    assert folder_of(entry_of(f"local-dir:{model_dirs['vit']}")) == model_dirs["vit"]


def test_sizes_are_those_of_the_files(folder):
    size = (folder / "fare.safetensors").stat().st_size
    assert megabytes(load(folder), "fare") == size / 1e6


def test_loading_leaves_the_global_generator_alone(model_dirs):
    before = torch.get_rng_state()
    forget_models()
    load_twin(load_model(f"local-dir:{model_dirs['vit']}", "cpu"), "fare")
    assert torch.equal(before, torch.get_rng_state())


# --- published checkpoints -----------------------------------------------------------------------


def test_a_hub_tower_is_lent(monkeypatch, backbone):
    asked = []

    def create(source, **kwargs):
        asked.append((source, kwargs))
        return tiny.seeded_model("vit", seed=5)

    monkeypatch.setattr(open_clip, "create_model", create)
    twin = load_twin(published(backbone), "fare")
    x = tiny.images(2)
    expected = Backbone("x", tiny.seeded_model("vit", seed=5), None, backbone.preprocess)
    torch.testing.assert_close(twin.encode_image(x), expected.encode_image(x))
    assert twin.model.transformer is backbone.model.transformer
    [(source, kwargs)] = asked
    assert source == "hf-hub:chs20/FARE4-ViT-B-32-laion2B-s34B-b79K"
    assert kwargs["precision"] == "fp32"
    load_twin(published(backbone), "fare")
    assert len(asked) == 1
    parameters = sum(p.numel() for p in backbone.visual.parameters())
    assert megabytes(published(backbone), "fare") == 4 * parameters / 1e6


def test_both_radii_of_a_family_may_be_in_memory(monkeypatch, backbone):
    seeds = {"hf-hub:chs20/fare2-clip": 2, "hf-hub:chs20/fare4-clip": 4}
    monkeypatch.setattr(
        open_clip, "create_model", lambda s, **k: tiny.seeded_model("vit", seed=seeds[s])
    )
    large = published(backbone, "ViT-L-14")
    x = tiny.images(1)
    two, four = (load_twin(large, "fare", eps).encode_image(x) for eps in (2, 4))
    assert not torch.allclose(two, four)
    assert torch.equal(load_twin(large, "fare").encode_image(x), four)


def test_a_hub_tower_with_another_activation_is_refused(monkeypatch, backbone):
    monkeypatch.setattr(
        open_clip, "create_model", lambda *a, **k: tiny.seeded_model("vit", quick_gelu=True)
    )
    with pytest.raises(MissingWeights, match="another activation than ViT-B-32"):
        load_twin(published(backbone), "fare")


def test_a_hub_tower_whose_weights_cannot_be_fetched_is_not_made_up(monkeypatch, backbone):
    """open_clip would warn and lend a tower with random weights."""
    config = {"model_cfg": tiny.CONFIGS["vit"] | {"embed_dim": 24}}
    monkeypatch.setattr(open_clip.factory, "_get_hf_config", lambda *a, **k: config)
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained_from_hf", failing(FileNotFoundError("offline"))
    )
    with pytest.raises(MissingWeights):
        load_twin(published(backbone), "fare")


def test_a_hub_tower_without_a_network_is_a_sentence(monkeypatch, tmp_path, backbone):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights) as caught:
        load_twin(published(backbone), "tecoa")
    assert "hf-hub:chs20/TeCoA4" in str(caught.value)
    assert caught.value.hint


# --- between the towers --------------------------------------------------------------------------


@pytest.fixture(params=["vit", "resnet"])
def pair(request, backbones):
    clean = backbones[request.param]
    return clean, load_twin(clean, "tecoa")


def test_the_ends_are_the_towers_themselves(pair):
    clean, robust = pair
    assert between(clean, robust, 0) is clean
    assert between(clean, robust, 1) is robust


def test_the_middle_is_the_mean_of_all_weights(pair):
    clean, robust = pair
    with tiny.no_trace(clean.model, robust.model):
        mixed = between(clean, robust, 0.5)
    one, two = clean.visual.state_dict(), robust.visual.state_dict()
    for name, value in mixed.visual.state_dict().items():
        expected = (one[name] + two[name]) / 2 if value.is_floating_point() else one[name]
        torch.testing.assert_close(value, expected.to(value.dtype))
    assert not any(p.requires_grad for p in mixed.visual.parameters())


def test_the_last_few_mixtures_are_kept(pair):
    clean, robust = pair
    first = between(clean, robust, 0.1)
    assert between(clean, robust, 0.1) is first
    for step in range(variants.MOST_BETWEEN):
        between(clean, robust, 0.2 + step / 10)
    assert len(variants._between) <= variants.MOST_BETWEEN
    assert between(clean, robust, 0.1) is not first


def test_a_tower_that_is_first_asked_for_in_inference_mode_can_be_attacked_later(folder):
    backbone = load(folder)
    with torch.inference_mode():
        twins = load_twin(backbone, "fare"), between(backbone, load_twin(backbone, "tecoa"), 0.5)
        words = load_learned(backbone, "advpt")["context"]
    for twin in twins:
        x = tiny.images(1).requires_grad_()
        assert torch.autograd.grad(twin.encode_image(x).sum(), x)[0].abs().max() > 0
    assert not words.is_inference()
