"""Which models may be loaded, and one clear sentence for every way that can fail."""

from __future__ import annotations

import json
import shutil

import httpx
import open_clip
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file

from tests import tiny
from vlmdefense_demo.errors import MissingWeights, UnknownMethod
from vlmdefense_demo.models import catalog
from vlmdefense_demo.models.catalog import MODELS, load_model, pick_device
from vlmdefense_demo.models.variants import forget_models

HUB = {name: m for name, m in MODELS.items() if not m.architecture.startswith("local-dir:")}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch):
    """Models loaded here are not handed to other tests."""
    monkeypatch.setattr(catalog, "_loaded", {})


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


def hub_error(message):
    response = httpx.Response(401, request=httpx.Request("GET", "https://hub"))
    try:
        return HfHubHTTPError(message, response=response)
    except TypeError:  # another signature in another huggingface_hub
        return HfHubHTTPError(message)


# --- the list --------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", HUB.values(), ids=HUB)
def test_every_catalog_name_exists_in_open_clip(entry):
    assert entry.architecture in open_clip.list_models()
    assert entry.pretrained in open_clip.list_pretrained_tags_by_model(entry.architecture)
    assert entry.megabytes > 0
    assert entry.licence


@pytest.mark.parametrize("entry", HUB.values(), ids=HUB)
def test_weights_and_architecture_agree_on_quickgelu(entry):
    """open_clip only warns about this, and OpenAI's weights are wrong without it."""
    tag = open_clip.get_pretrained_cfg(entry.architecture, entry.pretrained)
    config = open_clip.get_model_config(entry.architecture)
    assert config.get("quick_gelu", False) == tag.get("quick_gelu", False)
    assert (entry.pretrained == "openai") <= entry.architecture.endswith("-quickgelu")


@pytest.mark.parametrize(
    "name",
    ["", "ViT-H-14", "hf-hub:evil/model", "../pocket", "/etc/passwd", "https://x/y", "Pocket"],
)
def test_names_outside_the_list_are_refused(name, monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", failing(AssertionError("load")))
    with pytest.raises(UnknownMethod) as caught:
        load_model(name, "cpu")
    assert "Known: pocket, ViT-B-32" in str(caught.value)


# --- loading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_directory_is_loaded_with_its_weights_and_preprocessing(model_dirs, name):
    backbone = load(model_dirs[name])
    expected = load_file(model_dirs[name] / "open_clip_model.safetensors")
    assert all(torch.equal(backbone.model.state_dict()[k], v) for k, v in expected.items())
    preprocess = backbone.preprocess
    assert preprocess.size == tiny.CONFIGS[name]["vision_cfg"]["image_size"]
    assert preprocess.mean == tuple(tiny.PREPROCESS["mean"])
    assert preprocess.std == tuple(tiny.PREPROCESS["std"])
    assert preprocess.squash is False


def test_squash_is_read_from_the_configuration(folder):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    path.write_text(json.dumps(config))
    assert load(folder).preprocess.squash is True


def test_a_model_is_loaded_once_and_shared(folder):
    first = load(folder)
    assert load(folder) is first
    forget_models()
    assert load(folder) is not first


def test_a_download_is_announced_before_it_starts(monkeypatch, backbone):
    said = []

    def create(architecture, pretrained, **kwargs):
        assert said
        assert (architecture, pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
        return backbone.model

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: backbone.tokenizer)
    assert load_model("ViT-B-32", "cpu", say=said.append).name == "ViT-B-32"
    load_model("ViT-B-32", "cpu", say=said.append)
    assert len(said) == 1
    assert "605 MB" in said[0]


def test_openai_weights_are_requested_with_their_activation(monkeypatch, backbone):
    seen = []

    def create(architecture, pretrained, **kwargs):
        seen.append((architecture, pretrained))
        return backbone.model

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: backbone.tokenizer)
    for name in ("ViT-L-14", "ViT-B-32-openai", "RN50-openai"):
        load_model(name, "cpu")
    assert all(a.endswith("-quickgelu") and p == "openai" for a, p in seen)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LocalEntryNotFoundError("not cached"), "hub cannot be reached"),
        (OfflineModeIsEnabled("offline"), "hub cannot be reached"),
        (ConnectionError("no route"), "hub cannot be reached"),
        (hub_error("401 Unauthorized\nlong trace"), "HF_TOKEN"),
        (RuntimeError("Failed to download weights for tag\nx"), "Check the network"),
        (OSError("disk full"), "disk full"),
        (OSError(), "OSError"),
        (EOFError("end"), "incomplete or damaged"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else "",
)
def test_every_failure_is_one_sentence_with_its_cure(monkeypatch, error, expected):
    monkeypatch.setattr(open_clip, "create_model", failing(error))
    with pytest.raises(MissingWeights) as caught:
        load_model("ViT-B-16", "cpu")
    assert expected in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_not_being_cached_is_no_refusal_even_where_it_is_an_http_error(monkeypatch):
    class Older(type(hub_error("x"))):
        pass

    monkeypatch.setattr("huggingface_hub.errors.LocalEntryNotFoundError", Older)
    error = hub_error("not cached")
    error.__class__ = Older
    monkeypatch.setattr(open_clip, "create_model", failing(error))
    with pytest.raises(MissingWeights, match="hub cannot be reached"):
        load_model("ViT-B-16", "cpu")


def test_without_a_network_the_real_hub_path_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = open_clip.get_model_config("ViT-B-32")
    monkeypatch.setattr(open_clip.factory, "get_model_config", lambda name: config)
    with pytest.raises(MissingWeights) as caught:
        load_model("ViT-B-32", "cpu")
    assert "use the embedded model" in str(caught.value)


def test_a_failed_load_is_tried_again_next_time(monkeypatch, folder):
    with monkeypatch.context() as broken:
        broken.setattr(open_clip, "create_model", failing(ConnectionError()))
        with pytest.raises(MissingWeights):
            load(folder)
    assert load(folder).name.startswith("local-dir:")


def test_a_missing_directory_is_a_sentence(tmp_path):
    with pytest.raises(MissingWeights, match="Check the network or the folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "no json", "{}", '{"model_cfg": {}}', '{"model_cfg": 1}'])
def test_a_broken_configuration_is_a_sentence(folder, content):
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(MissingWeights):
        load(folder)


def test_an_unknown_key_in_the_configuration_is_a_sentence(folder):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["colour"] = "blue"
    path.write_text(json.dumps(config))
    with pytest.raises(MissingWeights):
        load(folder)


def test_a_model_without_its_weights_is_refused_instead_of_made_up(folder):
    """open_clip would only warn and answer with random weights."""
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "fare.safetensors").unlink()
    with pytest.raises(MissingWeights):
        load(folder)


def test_a_robust_twin_is_not_mistaken_for_the_model(folder):
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(MissingWeights):
        load(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 200_000])
def test_a_half_downloaded_file_is_refused(folder, keep):
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MissingWeights, match="incomplete or damaged"):
        load(folder)


def test_a_pickle_in_place_of_weights_is_not_executed(folder):
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "fare.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    torch.save(Evil(), folder / "open_clip_pytorch_model.bin")
    with pytest.raises(MissingWeights):
        load(folder)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_a_sentence(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MissingWeights, match="--device auto"):
        pick_device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"),
    [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_picks_the_fastest_device_there_is(monkeypatch, cuda, mps, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == picked
