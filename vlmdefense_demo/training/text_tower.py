"""The pocket model's text tower: a small transformer that learns where every word lies.

Nothing is read but short prompts, so sequences are cut behind the last end mark (exact in a causal
tower) and only the token rows that any prompt uses are trained; all others start and end as the
average token. Checkpoints make a killed run continue where it stopped.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.checkpoint import Checkpoint, about
from vlmdefense_demo.training.lesson import Language, Lesson, prepare
from vlmdefense_demo.training.photos import Photo
from vlmdefense_demo.training.schedule import warm_cosine
from vlmdefense_demo.training.targets import Refinement
from vlmdefense_demo.training.trunk import Trunk
from vlmdefense_demo.training.words import Vocabulary, plural

logger = logging.getLogger(__name__)

GROUP = 32
USUAL = "a photo of a {}."
PLAIN = (
    "{}", "a photo of a {}", "a photo of the {}.", "a photo of {}.", "an image of a {}.",
    "an image of {}", "this is a photo of a {}.", "a picture of a {}.", "a picture of the {}",
    "a {}", "the {}", "a photo of an {}.", "a close-up of a {}.", "there is a {} in the photo.",
    "a blurry photo of a {}.", "a good photo of a {}.", "a photo of one {}.", "{}.",
)  # fmt: skip


@dataclass(frozen=True)
class TextRecipe:
    """Hyperparameters of the text tower's training."""

    steps: int = 1800
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.05
    bag_steps: int = 400
    contrast: float = 0.2
    scale: float = 25.0
    plurals: float = 0.12
    seed: int = 0
    refinement: Refinement = field(default_factory=Refinement)

    def rate(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        return warm_cosine(step, self.steps, self.warm_up, self.learning_rate)


def train_text_tower(
    backbone: Backbone,
    trunk: Trunk,
    photos: Sequence[Photo],
    language: Language,
    recipe: TextRecipe,
    checkpoint: Path,
) -> tuple[nn.Module, float]:
    """Train a copy of the backbone's text tower; the backbone itself is not touched.

    Args:
        photos: held-out ones are left aside here.
        checkpoint: written every 200 steps, and continued from if it exists.

    Returns:
        the text tower in evaluation mode, and the logarithm of the logit scale.
    """
    lesson = prepare(backbone, trunk, photos, language, recipe.refinement)
    return fit(backbone, lesson, language.templates, recipe, checkpoint), lesson.log_scale


def fit(
    backbone: Backbone,
    lesson: Lesson,
    templates: Sequence[str],
    recipe: TextRecipe,
    checkpoint: Path,
) -> nn.Module:
    """The training loop: distance to the target, and its place among the 1000 classes."""
    tower: Any = copy.deepcopy(backbone.text).train().requires_grad_(True)
    compact = _Compact(backbone, lesson.vocabulary, templates)
    draw_weights(tower, recipe.seed)
    table = tower.token_embedding
    tower.token_embedding = compact.take(table)
    targets = nn.ParameterList([lesson.vocabulary.targets])  # which the photos shape
    file = Checkpoint(checkpoint, about(recipe, (), tower, targets))
    if not checkpoint.exists():
        start_as_bag(tower, compact, lesson, recipe)
    optimiser = torch.optim.AdamW(
        tower.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    first, _ = file.resume(tower, optimiser)
    prompts = _prompts(lesson.vocabulary, templates, recipe, first)
    for step, (texts, targets) in enumerate(
        tqdm(prompts, total=recipe.steps, initial=first, mininterval=10), first
    ):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        out = F.normalize(compact.encode(tower, texts), dim=1)
        loss = _loss(out, targets, lesson.classes, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            cosine = (out * targets).sum(1).mean().item()
            logger.info("step %d of %d, cosine %.4f", step + 1, recipe.steps, cosine)
            file.save(tower, optimiser, step + 1)
    tower.token_embedding = compact.put_back(tower.token_embedding, table)
    return tower.eval().requires_grad_(False)


def _loss(out: Tensor, targets: Tensor, classes: Tensor, recipe: TextRecipe) -> Tensor:
    """One minus cosine, plus the KL between similarities to the classes as they should be and are.

    The second part weighs the directions in which classes differ, so near neighbours separate.
    """
    wanted = (recipe.scale * targets @ classes.T).log_softmax(1)
    given = (recipe.scale * out @ classes.T).log_softmax(1)
    place = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
    return 1 - (out * targets).sum(1).mean() + recipe.contrast * place


def _prompts(
    vocabulary: Vocabulary, templates: Sequence[str], recipe: TextRecipe, first: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of (prompts, targets), reproducible from (seed, step) alone."""
    # Mostly short: the words are what has to be learnt, and the time goes with the length.
    pools = (((USUAL,), 0.35), (("{}",), 0.6), (PLAIN, 0.9), (tuple(templates), 1.1))
    for step in range(first, recipe.steps):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.multinomial(vocabulary.weights, recipe.batch, True, generator=generator)
        draws = torch.rand(recipe.batch, 3, generator=generator).tolist()
        texts = []
        for row, (kind, which, many) in zip(rows.tolist(), draws, strict=True):
            phrase = vocabulary.phrases[row]
            if phrase and many < recipe.plurals:
                phrase = plural(phrase)
            pool = next(p for p, upto in pools if kind < upto)
            texts.append(pool[int(which * len(pool))].replace("{}", phrase))
        yield texts, vocabulary.targets[rows]


@torch.no_grad()
def draw_weights(tower: nn.Module, seed: int) -> None:
    """Random weights from the seed alone, in place; blocks change little at first."""
    generator = torch.Generator().manual_seed(seed + 2)
    for name, weight in tower.named_parameters():
        if weight.dim() == 2:
            std = 0.02 if "token" in name else weight.shape[1] ** -0.5
            if name.endswith(("out_proj.weight", "c_proj.weight")):
                std *= 0.1
            weight.normal_(std=std, generator=generator)


def start_as_bag(tower: Any, compact: _Compact, lesson: Lesson, recipe: TextRecipe) -> None:
    """Start where a prompt is the sum of its words' vectors, in place.

    The first block's attention is set to an even average of normalised tokens, the projection
    spans the targets, and the token table is fitted to this bag of words.
    Template words start at zero, which says nothing. The transformer then only has to learn what
    word order and templates change: prompts start at a cosine of 0.7 to their targets, which
    random weights do not reach in 500 steps.
    """
    width = tower.ln_final.weight.shape[0]
    with torch.no_grad():
        first = tower.transformer.resblocks[0].attn
        first.in_proj_weight[:width] *= 0.1
        first.in_proj_weight[2 * width :] = torch.eye(width)
        first.out_proj.weight.copy_(torch.eye(width))
        basis = torch.linalg.svd(lesson.classes, full_matrices=False)[2]
        # Turned, so that no single coordinate is lost to LayerNorm's centring.
        turn = torch.randn(width, width, generator=torch.Generator().manual_seed(recipe.seed))
        tower.text_projection.copy_(torch.linalg.qr(turn)[0] @ basis[:width])
        tower.positional_embedding.zero_()
    table = tower.token_embedding
    optimiser = torch.optim.Adam(table.parameters(), 3e-3)
    vocabulary = lesson.vocabulary
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    filled = vocabulary.weights * torch.tensor([bool(p) for p in vocabulary.phrases])
    for step in tqdm(range(recipe.bag_steps), desc="bag of words", mininterval=10):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / recipe.bag_steps)
        rows = torch.multinomial(filled, 256, True, generator=generator)
        tokens = [compact.tokens(vocabulary.phrases[i]) for i in rows.tolist()]
        flat = F.layer_norm(table(torch.tensor([t for row in tokens for t in row])), (width,))
        owner = torch.tensor([i for i, row in enumerate(tokens) for _ in row])
        bags = torch.zeros(len(tokens), width).index_add(0, owner, flat)
        out = F.normalize(tower.ln_final(bags) @ tower.text_projection, dim=1)
        loss = _loss(out, vocabulary.targets[rows], lesson.classes, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        table.weight.mul_(0.3 / table.weight.std())
        table.weight[list(compact.template_tokens)] = 0


class _Compact:
    """The token rows that training can meet, renumbered; the rest of the table stays out of it."""

    def __init__(
        self, backbone: Backbone, vocabulary: Vocabulary, templates: Sequence[str]
    ) -> None:
        self.tokenizer = backbone.tokenizer
        # A phrase that ends in a bracket fuses with the full stop behind it.
        phrases = [
            f(p) + end for p in vocabulary.phrases for f in (str, plural) for end in ("", ".")
        ]
        bare = [t.replace("{}", gap) for t in (USUAL, *PLAIN, *templates) for gap in ("", " x ")]
        marks = (self.tokenizer.sot_token_id, self.tokenizer.eot_token_id)
        words = [i for text in phrases for i in self.tokenizer.encode(text)]
        frame = {i for text in bare for i in self.tokenizer.encode(text)}
        used = frame.union(words)
        self.used = sorted(used | set(marks))
        self.number = {id: i for i, id in enumerate(self.used)}
        self.marks = tuple(self.number[i] for i in marks)
        self.template_tokens = self.marks + tuple(self.number[i] for i in frame)

    def take(self, table: nn.Embedding) -> nn.Embedding:
        """A smaller table with the used rows."""
        return nn.Embedding.from_pretrained(table.weight[self.used].clone(), freeze=False)

    def put_back(self, small: nn.Embedding, table: nn.Embedding) -> nn.Embedding:
        """The full table; rows no prompt used are the average row plus what they started as."""
        full = copy.deepcopy(table)
        full.weight.data += small.weight.data.mean(0)
        full.weight.data[self.used] = small.weight.data
        return full

    def tokens(self, text: str) -> list[int]:
        """Token numbers without marks."""
        return [self.number[i] for i in self.tokenizer.encode(text)]

    def encode(self, tower: Any, texts: Sequence[str]) -> Tensor:
        """(B, D) un-normalised text features, in groups of similar length to pad little."""
        room = tower.positional_embedding.shape[0] - 2
        rows = [self.tokens(t)[:room] for t in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        groups = [order[i : i + GROUP] for i in range(0, len(order), GROUP)]
        out = torch.cat([self._encode(tower, [rows[i] for i in group]) for group in groups])
        return out[torch.tensor(order).argsort()]

    def _encode(self, tower: Any, rows: Sequence[list[int]]) -> Tensor:
        """Features of token rows without marks, pooled at the end mark."""
        length = max(map(len, rows)) + 2
        first, last = self.marks
        ids = torch.tensor([[first, *row, last] + [0] * (length - 2 - len(row)) for row in rows])
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        ends = torch.tensor([len(row) + 1 for row in rows])
        return tower.ln_final(x[torch.arange(len(rows)), ends]) @ tower.text_projection
