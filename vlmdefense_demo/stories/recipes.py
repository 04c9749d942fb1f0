"""What each story is made of: a photo that ships inside a dependency, an attack, defences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.images import read_upload, to_pixels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import ASSETS
from vlmdefense_demo.request import AWARE, Request
from vlmdefense_demo.types import Images

FOLDER = ASSETS / "precomputed"
MODEL = "pocket"
EVERYDAY = (
    "cat", "dog", "lion", "cheetah", "coffee", "rocket", "person", "tower", "motorcycle", "car",
)  # fmt: skip
VEHICLES = (
    "motorcycle", "car", "bicycle", "bus", "truck", "train", "airplane", "boat", "rocket",
)  # fmt: skip
THREE_KINDS: dict[str, dict[str, Any]] = {
    "tecoa": {}, "fare": {}, "ensemble": {}, "rtpt": {}, "jpeg": {}, "ttc": {},
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One story's request as plain data.

    Args:
        slug: its folder in assets/precomputed/.
        photo: package and path of a file inside it.
        params: of the attack, in display units.
        defenses: id -> parameters in display units, in the order of the cards.
        knows: climb the ladder of attackers who know the defence, without the black box.
    """

    slug: str
    photo: tuple[str, str]
    labels: tuple[str, ...] = EVERYDAY
    attack: str = "pgd"
    params: Mapping[str, Any] = field(default_factory=dict)
    defenses: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: THREE_KINDS)
    knows: bool = True
    seed: int = 0

    def image(self, backbone: Backbone) -> Images:
        """(1, 3, H, W) the photo at the model's size.

        Raises:
            InvalidImage: the package that holds it is not there.
        """
        return to_pixels(backbone.preprocess.fit(read_upload(self.path()).image))

    def request(self, image: Images) -> Request:
        """The comparison to run on the photo."""
        return Request(
            image, self.labels, attack=self.attack, attack_params=self.params,
            defenses=self.defenses, seed=self.seed,
            rungs=tuple(r for r in AWARE if r != "black_box") if self.knows else (), looks=True,
        )  # fmt: skip

    def path(self) -> Path:
        """The photo's file; the package is found, not imported."""
        package, file = self.photo
        spec = find_spec(package)
        if spec is None or spec.origin is None or not (Path(spec.origin).parent / file).exists():
            raise InvalidImage(f"The photo {file} of {package} is not installed.")
        return Path(spec.origin).parent / file

    def to_json(self) -> dict[str, Any]:
        """As cards.json keeps it."""
        return asdict(self) | {"photo": list(self.photo), "labels": list(self.labels)}


# The first one is what the page opens with.
RECIPES = (
    Recipe(
        "coffee-becomes-motorcycle", ("skimage", "data/coffee.png"), params={"eps": 4},
    ),
    Recipe(
        "one-step", ("gradio", "media_assets/images/lion.jpg"), attack="fgsm", params={"eps": 2},
    ),
    Recipe(
        "universal", ("skimage", "data/astronaut.png"), attack="universal", params={"eps": 10},
    ),
    Recipe(
        "price-of-training", ("skimage", "data/rocket.jpg"), VEHICLES, params={"eps": 2},
    ),
    Recipe(
        "adaptation-costs-time", ("gradio", "media_assets/images/cheetah1.jpg"), params={"eps": 4},
        defenses={"fare": {}, "tapt": {}, "rtpt": {}, "tpt": {}, "ttc": {}, "mac": {}},
    ),
    Recipe(
        "masked-gradients", ("gradio", "media_assets/images/tower.jpg"), params={"eps": 4},
        defenses={"fare": {}, "tecoa": {}, "rtpt": {}, "jpeg": {}, "bits": {}, "clipure_cos": {}},
    ),
    Recipe(
        "written-word", ("skimage", "data/rocket.jpg"), attack="typographic", knows=False,
    ),
)  # fmt: skip
