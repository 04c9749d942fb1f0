"""`python -m vlmdefense_demo train …`: what ships in assets/pocket-clip, checks, and more prompts."""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.errors import InvalidImage, InvalidParameter
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.catalog import LOCAL, POCKET, UNIVERSAL, entry_of, load_model
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.deep_prompts import vision_transformer
from vlmdefense_demo.models.variants import (
    Variant,
    find,
    folder_of,
    forget_models,
    load_twin,
    mixture,
    write_variant,
)
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.checks import check, check_robust, load_folder
from vlmdefense_demo.training.fap import FAPObjective, FAPRecipe, FewShots, Prompted
from vlmdefense_demo.training.fare import FAREObjective
from vlmdefense_demo.training.lesson import Language
from vlmdefense_demo.training.objective import Objective
from vlmdefense_demo.training.photos import Photo, read_photos
from vlmdefense_demo.training.pmg_aft import PMGObjective
from vlmdefense_demo.training.prompts import (
    ADVPT,
    Lesson,
    PromptRecipe,
    train_advpt,
    train_apt,
)
from vlmdefense_demo.training.report import CALTECH, embed_labels, listed_words
from vlmdefense_demo.training.tapt import chosen, layer_statistics, robust_eps, robust_method
from vlmdefense_demo.training.tecoa import TeCoAObjective
from vlmdefense_demo.training.tecoa_vp import Framed
from vlmdefense_demo.training.text_tower import TextRecipe, train_text_tower
from vlmdefense_demo.training.tga_zsr import TGAObjective
from vlmdefense_demo.training.tower import Course, TowerRecipe, fine_tune, half_precision, train
from vlmdefense_demo.training.trunk import closed_form, install, load_trunk
from vlmdefense_demo.training.universal import (
    UniversalRecipe,
    train_universal,
    write_universal,
)
from vlmdefense_demo.training.wordnet import read_wordnet
from vlmdefense_demo.training.words import photo_words

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "fare": FAREObjective, "tecoa": TeCoAObjective, "pmg_aft": PMGObjective,
    "tga_zsr": TGAObjective, "tecoa_vp": TeCoAObjective,
}  # fmt: skip
# The frame belongs to the full-size picture, starts from noise and has no decay to lean on.
FRAME = TowerRecipe(learning_rate=0.05, weight_decay=0.0)
EPS = 3.0
SHARES = {"tecoa": 0.8}
APT = PromptRecipe(epochs=20)
ANY_MODEL = ("fap", "tapt")
MEASURED = 1000
DATA = "photos of Caltech-101, clothing and backgrounds"


def run(args: argparse.Namespace) -> Iterator[str]:
    """Dispatch; yields lines for the terminal."""
    if args.model != "pocket" and args.what not in ANY_MODEL:
        raise InvalidParameter(
            f"{args.what} is not made for {args.model}, only for the model in a folder.",
            f"Use --out; --model belongs to {', '.join(ANY_MODEL)}.",
        )
    torch.set_num_threads(args.threads)
    recipe = {
        "pocket": pocket, "universal": universal, "check": check, "check-robust": check_robust,
        "fap": fap, "tapt": tapt,
    } | dict.fromkeys(OBJECTIVES, tower) | dict.fromkeys(("apt", "advpt"), prompt)  # fmt: skip
    yield from recipe[args.what](args)


def pocket(args: argparse.Namespace) -> Iterator[str]:
    """Image tower and class embeddings in closed form, then the text tower by gradient."""
    folder = args.out or POCKET
    blank = _blank(folder)
    trunk = load_trunk()
    install(trunk, closed_form(trunk)[0], blank)
    language = Language(
        open_clip.IMAGENET_CLASSNAMES,
        [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES],
        read_wordnet(),
        listed_words(args.images),
    )
    how = TextRecipe(**({"steps": args.steps} if args.steps else {}))
    tower, log_scale = train_text_tower(
        blank, trunk, read_photos(args.images), language, how, args.work / "text.pt"
    )
    blank.model.text = tower
    blank.model.logit_scale.data.fill_(log_scale)
    weights = half_precision(blank.model.state_dict().items())
    # Three quarters of the model are token rows; 8 bits a number keep it below 45 MB.
    table = "text.token_embedding.weight"
    weights[table] = blank.model.state_dict()[table].to(torch.float8_e4m3fn)
    _write(weights, folder / WEIGHTS)
    yield f"wrote {folder / WEIGHTS}"
    yield from check(args)


def tower(args: argparse.Namespace) -> Iterator[str]:
    """A robust image tower (or TeCoA's frame), by the one loop all these methods share."""
    folder = args.out or POCKET
    backbone = load_folder(folder)
    photos = [p for p in read_photos(args.images) if not p.held_out]
    text = embed_labels(backbone, open_clip.IMAGENET_CLASSNAMES).clone()  # no inference tensor
    eps = _levels(args, EPS)
    base = TowerRecipe(share=SHARES.get(args.what, 1.0))
    how = replace(FRAME if args.what == "tecoa_vp" else base, eps=eps / 255)
    how = replace(how, size=_crop(backbone, how.size, args.what))
    if args.steps:
        how = replace(how, steps=args.steps)
    start = None
    if args.start:  # a tower that stands the smaller ball needs no slow growth
        start, how = load_twin(backbone, args.what, args.start).visual, replace(how, ramp=0.0)
    name = args.what if eps == EPS else f"{args.what}{eps:g}"
    course = Course(backbone, photos, text, how, args.work / f"{name}.pt")
    objective = OBJECTIVES[args.what]()
    if args.what == "tecoa_vp":
        student = Framed(backbone)
        train(student, student.border, course, objective)
        tensors = {k.removeprefix("parts."): v for k, v in student.border.state_dict().items()}
    else:
        trained = fine_tune(course, objective, start)
        tensors = half_precision(mixture(backbone.visual, trained, how.share).items())
    words = (
        f"{how.steps} steps of {how.batch} crops at {how.size} px, {how.attack_steps} attack steps"
    )
    if start is not None:
        words += f", after the tower trained for {args.start:g}/255"
    if how.share < 1:
        words += f"; {1 - how.share:.0%} of the original's weights mixed in"
    labels = "no labels" if args.what == "fare" else "labelled by the original model"
    variant = Variant(args.what, f"{name}.safetensors", eps, words, f"{DATA}, {labels}")
    write_variant(folder, variant, tensors)
    forget_models()
    yield f"wrote {folder / variant.source}"


def _crop(backbone: Backbone, smaller: int, what: str) -> int:
    """The side of the training crops: less than the model's own where its tower takes both."""
    own = backbone.preprocess.size
    if what == "tecoa_vp" or smaller >= own:
        return own
    try:
        with torch.no_grad():
            backbone.encode_image(torch.zeros(1, 3, smaller, smaller, device=backbone.device))
    except (RuntimeError, AssertionError):  # a ViT has a position for every patch of its own size
        return own
    return smaller


def prompt(args: argparse.Namespace) -> Iterator[str]:
    """A learned prompt: APT on the TeCoA tower, AdvPT on the model's own."""
    folder = args.out or POCKET
    backbone = load_folder(folder)
    photos = few_shots(read_photos(args.images, (CALTECH,)), args.shots)
    apt = args.what == "apt"
    how = replace(APT, eps=_levels(args, EPS) / 255) if apt else ADVPT
    if args.steps:
        how = replace(how, epochs=args.steps)
    clf = ZeroShotClassifier(backbone, sorted({p.label for p in photos}))
    if apt:
        clf = clf.with_backbone(load_twin(backbone, "tecoa"))
    learn = train_apt if apt else train_advpt
    trained = learn(Lesson(clf, photos), how, _noted(args.what), args.work / f"{args.what}.pt")
    words = f"{how.epochs} epochs of {len(photos)} photos, {how.attack_steps} attack steps"
    variant = Variant(
        args.what, f"{args.what}.safetensors", how.eps * 255, words,
        f"{args.shots} photos a class of {len(clf.labels)} Caltech-101 classes",
        tower="tecoa" if apt else "", tower_eps=find(backbone.name, "tecoa").eps if apt else 0,
    )  # fmt: skip
    write_variant(folder, variant, {"context": trained.context})
    forget_models()
    yield f"wrote {folder / variant.source}, loss {trained.losses[0]:.3f} -> {trained.losses[-1]:.3f}"


def few_shots(photos: Sequence[Photo], shots: int) -> list[Photo]:
    """The first photos of every class by a hash of their name, labelled with the class's word."""
    classes: dict[str, list[Photo]] = {}
    for photo in sorted(photos, key=lambda p: zlib.crc32(p.file.encode())):
        words = photo_words(photo.label)
        if words and not photo.held_out:
            classes.setdefault(words[0], []).append(replace(photo, label=words[0]))
    return [photo for chosen in classes.values() for photo in chosen[:shots]]


def _noted(what: str) -> Run:
    """A run whose progress is shown on the terminal."""
    bar = tqdm(desc=what, mininterval=10)

    def note(stage: str, step: int, total: int) -> None:
        bar.total, bar.n = total, step
        bar.refresh()

    return Run(path=f"/{what}", on_progress=note)


def fap(args: argparse.Namespace) -> Iterator[str]:
    """Deep prompts for any model with a ViT, from a few photos a class."""
    backbone = load_model(args.model, args.device)
    vision_transformer(backbone.visual)  # refuses before any photo is read
    photos = few_shots(read_photos(args.images), args.shots)
    names = sorted({p.label for p in photos})
    if len(names) < 2:
        raise InvalidImage(
            f"A classifier needs photos of two kinds of things or more, these show {len(names)}.",
            "Add another photo set, or more shots.",
        )
    eps = _levels(args, 1)
    how = FAPRecipe(eps=eps / 255, size=backbone.preprocess.size).over(len(photos))
    if args.steps:
        how = replace(how, steps=args.steps)
    student = Prompted(backbone, names)
    work = args.work / f"fap-{Path(args.model).name}.pt"
    train(student, student.prompts, FewShots(student, photos, how, work), FAPObjective())
    words = f"{how.steps} steps of {how.batch} photos, {how.attack_steps} attack steps"
    data = f"{len(photos)} photos, up to {args.shots} of each of {len(names)} classes"
    variant = Variant("fap", "fap.safetensors", eps, words, data)
    folder = args.out or folder_of(entry_of(backbone.name))
    write_variant(folder, variant, student.prompts().tensors())
    forget_models()
    yield f"wrote {folder / variant.source}"


def tapt(args: argparse.Namespace) -> Iterator[str]:
    """Layer statistics of any model and of its robust twin, from photos without labels."""
    backbone = load_model(args.model, args.device)
    photos = chosen(read_photos(args.images), args.photos or MEASURED)
    if len(photos) < 2:
        raise InvalidImage("Statistics need two photos or more that are not held out.")
    tensors = layer_statistics(backbone, photos)
    twin = robust_method(backbone.name)
    words = (
        f"layer statistics of the model and of {f'its {twin} tower' if twin else 'attacked photos'}"
    )
    data = f"one crop of each of {len(photos)} photos, no labels"
    variant = Variant("tapt", "tapt.safetensors", robust_eps(backbone.name), words, data)
    folder = args.out or folder_of(entry_of(backbone.name))
    write_variant(folder, variant, tensors)
    forget_models()
    yield f"wrote {folder / variant.source}"


def _levels(args: argparse.Namespace, default: float) -> float:
    """The radius to train for, of 255."""
    return default if args.eps is None else args.eps


def universal(args: argparse.Namespace) -> Iterator[str]:
    """The universal perturbation of the undefended tower."""
    folder = args.out or POCKET
    photos = [p for p in read_photos(args.images) if not p.held_out]
    how = UniversalRecipe(**({"steps": args.steps} if args.steps else {}))
    delta = train_universal(load_folder(folder), photos, how, args.work / "universal.pt")
    write_universal(delta, folder / UNIVERSAL)
    yield f"wrote {folder / UNIVERSAL}"


def _blank(folder: Path) -> Backbone:
    """An untrained model of the folder's configuration, the same on every machine."""
    config = json.loads((folder / CONFIG).read_text())
    shape = {k: v for k, v in config["model_cfg"].items() if k != "custom_text"}
    with torch.random.fork_rng():
        # The constructor draws from the global generator; the fork gives it back untouched.
        torch.random.default_generator.manual_seed(0)
        model = open_clip.CustomTextCLIP(**shape)
    how = Preprocess(
        **{k: v for k, v in config["preprocess_cfg"].items() if k in ("mean", "std", "size")}
    )
    return Backbone("pocket", model, open_clip.get_tokenizer(f"{LOCAL}{folder}"), how)


def _write(weights: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.replace(path)
    forget_models()
