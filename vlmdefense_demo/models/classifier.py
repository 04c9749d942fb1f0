"""Zero-shot classification: labels, a template, and cosines at the model's own temperature.

Cheap and made per request. The classifier owns the request's meter, and `encode_image` and
`encode_text` are the only places where passes are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vlmdefense_demo.labels import DEFAULT_TEMPLATE, clean_labels, clean_template, fill
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import load_universal
from vlmdefense_demo.models.deep_prompts import DeepPrompts, encode_text, label_prompts
from vlmdefense_demo.models.maps import contribution, salience
from vlmdefense_demo.models.prompts import ContextPrompts, LearnedContext, placeholders
from vlmdefense_demo.models.variants import load_context
from vlmdefense_demo.run import Meter
from vlmdefense_demo.types import Features, Images, Logits

TINY = 1e-12
Look = Literal["rollout", "gradient"]


@dataclass
class Texts:
    """What a request encodes once; shared by the classifiers made from one, whose text tower is the same.

    Args:
        learned: (K, D) features of the labels behind learned words, by method.
        blank: (D,) the mean of the templates without a class.
        hand: the hand prompt, its words as a leaf, and the features grown from it.
    """

    learned: dict[str, Features] = field(default_factory=dict)
    blank: Features | None = None
    hand: tuple[ContextPrompts, Tensor, Features] | None = None


class ZeroShotClassifier:
    """`clf(x) -> (B, K)` logits = scale * cos(image, label prompt).

    Args:
        backbone: the shared frozen model.
        labels: 2 to 100 labels.
        template: text with one ``{}`` for the label.
        meter: the books passes are counted in; a fresh one by default.
        text_features: (K, D) unit-norm features to use instead of encoding the prompts.
        learned: prompts that belong to this request, by the method that uses them.

    Raises:
        InvalidLabels: labels or template cannot be used, or exceed the context window.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: Sequence[str],
        template: str = DEFAULT_TEMPLATE,
        *,
        meter: Meter | None = None,
        text_features: Features | None = None,
        learned: Mapping[str, LearnedContext] | None = None,
    ) -> None:
        self.backbone = backbone
        self.labels = clean_labels(labels)
        self.template = clean_template(template)
        self.meter = meter or Meter(backbone.device)
        self.learned = dict(learned or {})
        self._texts = Texts()
        self.text_features = (
            self.encode_text(self.prompts).detach() if text_features is None else text_features
        )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of every label."""
        return tuple(fill(self.template, label) for label in self.labels)

    @property
    def scale(self) -> float:
        """The inverse temperature the model was trained with."""
        return self.backbone.logit_scale

    def __call__(self, x: Images) -> Logits:
        """(B, 3, H, W) -> (B, K) logits."""
        return self.logits(self.encode_image(x))

    def logits(self, features: Features) -> Logits:
        """(B, D) unit-norm image features -> (B, K) logits."""
        return self.scale * features @ self.text_features.T

    def encode_image(self, x: Images, normalize: bool = True) -> Features:
        """(B, 3, H, W) in [0, 1] -> (B, D) image features, unit norm unless told otherwise."""
        z = self.backbone.encode_image(x)
        self.meter.tick("image", z)
        return unit(z) if normalize else z

    def encode_text(self, prompts: Sequence[str], normalize: bool = True) -> Features:
        """C prompts -> (C, D) text features, unit norm unless told otherwise."""
        t = self.backbone.encode_ids(self.backbone.tokenize(prompts))
        self.meter.tick("text", t)
        return unit(t) if normalize else t

    def universal(self) -> Images:
        """(1, 3, H, W) the universal perturbation made for this model; MissingWeights if none."""
        return load_universal(self.backbone)

    def context_prompts(self) -> ContextPrompts:
        """The label prompts with their context words exposed as explicit vectors.

        Raises:
            InvalidLabels: the template has no words before the label.
        """
        return ContextPrompts(self.backbone, self.prompts, self.template.split("{}")[0].strip())

    def hand_prompt(self) -> tuple[ContextPrompts, Tensor, Features]:
        """Where tuning starts: the prompts, their words as a leaf, and the features grown from it.

        The graph between the two is built once a request: every image starts from the same words.
        Differentiate it with `retain_graph`.

        Raises:
            InvalidLabels: the template has no words before the label.
        """
        if self._texts.hand is None:
            prompts = self.context_prompts()
            with torch.enable_grad():
                context = prompts.initial.clone().requires_grad_()
                self._texts.hand = prompts, context, self.encode_context(prompts, context)
        return self._texts.hand

    def blank_text(self) -> Features:
        """(D,) unit-norm mean feature of the 80 ImageNet templates without a class, once a request."""
        if self._texts.blank is None:
            import open_clip

            prompts = [template("") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
            with torch.no_grad():
                self._texts.blank = unit(self.encode_text(prompts).mean(0, keepdim=True))[0]
        return self._texts.blank

    def placeholder_prompts(self, n_ctx: int) -> ContextPrompts:
        """The labels behind n_ctx words that are to be learned."""
        return placeholders(self.backbone, self.labels, n_ctx)

    def learned_context(self, method: str) -> LearnedContext:
        """This request's own learned prompt of a method, else the one that ships with the model.

        Raises:
            MissingWeights: there is neither.
        """
        return self.learned.get(method) or load_context(self.backbone, method)

    def with_learned(self, method: str) -> ZeroShotClassifier:
        """The same classifier against learned words; they are encoded once a request, as labels are.

        Raises:
            MissingWeights: nothing was learned for this model.
            InvalidLabels: a label does not fit behind the learned words.
        """
        if method not in self._texts.learned:
            context = self.learned_context(method).context.to(self.backbone.device)
            with torch.no_grad():
                prompts = self.placeholder_prompts(len(context))
                self._texts.learned[method] = self.encode_context(prompts, context)
        return self.with_text(self._texts.learned[method])

    def encode_context(self, prompts: ContextPrompts, context: Tensor) -> Features:
        """(n_ctx, d) context vectors -> (K, D) unit-norm text features, differentiable."""
        t = prompts.encode(context)
        self.meter.tick("text", t)
        return unit(t)

    def with_prompted(self, method: str, prompts: DeepPrompts) -> ZeroShotClassifier:
        """The same classifier against labels behind deep prompts, encoded once a request.

        Raises:
            InvalidLabels: a label does not fit behind "a photo of a".
        """
        if method not in self._texts.learned:
            with torch.no_grad():
                self._texts.learned[method] = self.encode_prompted_labels(prompts)
        return self.with_text(self._texts.learned[method])

    def encode_prompted_image(self, x: Images, prompts: DeepPrompts) -> Features:
        """(B, 3, H, W) in [0, 1] -> (B, D) unit-norm image features, seen through deep prompts."""
        z = self.backbone.encode_prompted(x, prompts.image)
        self.meter.tick("image", z)
        return unit(z)

    def encode_watched(self, x: Images, prompts: Tensor) -> tuple[Features, list[Tensor]]:
        """(B, 3, H, W) in [0, 1], (B, *blank) added prompts -> unit-norm features, and what layers saw.

        Raises:
            MethodFailed: the layers of the image tower are not known.
        """
        z, seen = self.backbone.encode_watched(x, prompts)
        self.meter.tick("image", z)
        return unit(z), seen

    def encode_attention(self, x: Images) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, h, w) in [0, 1]: where each image's first answer comes from.

        A constant, in every grad mode: one forward, and one backward from the highest logit, which
        ends at the last locations and is booked as a whole one.

        Raises:
            MethodFailed: the image tower has no grid of locations.
        """
        with torch.enable_grad():
            seen = self.backbone.encode_traced(x)
            self.meter.tick("image", seen.features)
            return salience(seen, self.logits(unit(seen.features)).amax(1).sum())

    def look(self, x: Images) -> tuple[Tensor, Look]:
        """(B, 3, H, W) in [0, 1] -> (B, h, w) where each image's answer comes from, and how that is told.

        Of a plain ViT its attention, as shares; of other towers what each location adds to the
        highest logit, in its units. Constants, and comparable between images.

        Raises:
            MethodFailed: the image tower has no grid of locations.
        """
        if self.backbone.plain_vit:
            with torch.no_grad():
                shares = self.backbone.encode_rollout(x)
            self.meter.tick("image", shares)
            return shares, "rollout"
        with torch.enable_grad():
            seen = self.backbone.encode_traced(x)
            self.meter.tick("image", seen.features)
            return contribution(seen, self.logits(unit(seen.features)).amax(1).sum()), "gradient"

    def encode_prompted_labels(self, prompts: DeepPrompts) -> Features:
        """(K, D) unit-norm text features of the labels behind deep prompts, not the template."""
        t = encode_text(label_prompts(self.backbone, self.labels), prompts.text)
        self.meter.tick("text", t)
        return unit(t)

    def with_text(self, text_features: Features) -> ZeroShotClassifier:
        """The same classifier with other (K, D) unit-norm text features."""
        return self._with(self.backbone, text_features)

    def with_backbone(self, backbone: Backbone) -> ZeroShotClassifier:
        """The same text features behind another image tower of the same family."""
        return self._with(backbone, self.text_features)

    def _with(self, backbone: Backbone, text_features: Features) -> ZeroShotClassifier:
        other = copy.copy(self)
        other.backbone, other.text_features = backbone, text_features
        return other


def unit(features: Features) -> Features:
    """(B, D) -> the same directions at length 1; zero stays zero. Half the work of `F.normalize`."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + TINY)
