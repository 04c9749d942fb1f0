"""One thread, no network, and tiny seeded models in open_clip's own directory format."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from tests import tiny
from vlmdefense_demo.models.catalog import load_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory):
    """name -> directory with open_clip_config.json, open_clip_model.safetensors, a FARE twin."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save_model(root / name, name) for name in tiny.CONFIGS}


@pytest.fixture(scope="session")
def backbones(model_dirs):
    """name -> the tiny backbone, loaded the way a person loads a local directory."""
    return {name: load_model(f"local-dir:{path}", "cpu") for name, path in model_dirs.items()}


@pytest.fixture
def backbone(backbones):
    return backbones["vit"]


@pytest.fixture
def clf(backbone):
    return tiny.classifier(backbone)
