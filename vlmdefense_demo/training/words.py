"""The words the pocket model's text tower is taught, each with the embedding it should land on.

A word means the average of the ImageNet classes it covers: a class name covers one class, "dog"
covers 118, and an everyday noun that covers none borrows from its nearest ancestor in WordNet that
does. Words of the training photos also look at those photos, and a short table corrects what
WordNet gets wrong about plain language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.training.wordnet import WordNet

PHYSICAL_ENTITY = "n00001930"
SENSES_READ = 5
PERSON = "n00007846"
# "animal" covers 398 classes and is still a kind of look; "artifact" covers 522 and is not.
TOO_ABSTRACT = 450
# Fewer classes than this below an ancestor are an accident (flag -> emblem -> totem pole), many
# more say nothing about a particular thing.
KIN = range(3, 130)

# Folder of a photo set -> its words; the first is the one it is tested with. Folders that are not
# listed are their own word.
PHOTO_WORDS: dict[str, tuple[str, ...]] = {
    "Faces": ("face", "human face", "person's face"),
    "Leopards": ("leopard",),
    "Motorbikes": ("motorbike", "motorcycle"),
    "airplanes": ("airplane", "aeroplane", "plane", "jet"),
    "bass": ("bass fish",),
    "binocular": ("binoculars",),
    "car_side": ("car", "automobile"),
    "cougar_body": ("cougar body",),
    "garfield": ("garfield", "garfield the cartoon cat"),
    "headphone": ("headphone", "headphones"),
    "lotus": ("lotus", "lotus flower"),
    "rhino": ("rhino", "rhinoceros"),
    "snoopy": ("snoopy", "snoopy the cartoon dog"),
    "tick": ("tick",),
    "watch": ("watch", "wristwatch"),
    "water_lilly": ("water lily",),
    "yin_yang": ("yin yang", "yin and yang symbol"),
    "longsleeve": ("long sleeve shirt", "longsleeve"),
    "outwear": ("outerwear", "jacket", "coat"),
    "pants": ("pants", "trousers"),
    "shoes": ("shoe", "shoes", "footwear"),
    "t-shirt": ("t-shirt", "tee shirt"),
}
NO_WORD = frozenset({"background", "BACKGROUND_Google"})

# Plain words -> class names whose average they mean.
EVERYDAY: dict[str, str] = {
    "person, human, people, man, woman, human being, adult, portrait": (
        "academic gown, suit, lab coat, baseball player, bridegroom, hair wig, neck brace, "
        "sweatshirt, bobsleigh, Windsor tie, football helmet, go-kart, military uniform"
    ),
    "boy, girl, child, kid, baby, toddler": "baby bib, swing, diaper, bassinet, T-shirt, sweatshirt",
    "astronaut, spaceman, cosmonaut": (
        "space shuttle, bobsleigh, football helmet, go-kart, crash helmet, oxygen mask"
    ),
    "athlete, sportsman, football player": "baseball player, football helmet, rugby ball, volleyball",
    "soldier, army": "military uniform, assault rifle, bulletproof vest, rifle, tank",
    "doctor, nurse, scientist": "lab coat, stethoscope, oxygen mask",
    "bride, wedding": "gown, bridegroom, hoop skirt",
    "coffee, cup of coffee, cappuccino, latte": "espresso, tea cup, coffee mug, espresso machine",
    "tea, cup of tea": "tea cup, espresso, teapot",
    "drink, beverage": "espresso, red wine, eggnog, tea cup, beer glass, goblet, water bottle",
    "wine, glass of wine": "red wine, wine bottle, goblet",
    "beer": "beer glass, beer bottle",
    "soup": "consomme, soup bowl, hot pot",
    "food, meal, dish, dinner, lunch": (
        "plate, carbonara, mashed potatoes, meatloaf, burrito, pizza, consomme, hot pot, guacamole"
    ),
    "pasta, spaghetti, noodles": "carbonara",
    "cake, dessert": "trifle, ice cream, chocolate syrup",
    "bread, loaf of bread": "baguette, bagel, dough",
    "sandwich, burger": "cheeseburger, hot dog, bagel",
    "rocket, space rocket, spacecraft, rocket launch": "missile, space shuttle, drilling rig",
    "tower": "bell tower, obelisk, construction crane, water tower, lighthouse, totem pole",
    "skyscraper, monument": "obelisk, bell tower, flagpole, construction crane, water tower",
    "cat, house cat, domestic cat, kitty, kitten, pet cat": (
        "tabby cat, tiger cat, Persian cat, Siamese cat, Egyptian Mau"
    ),
    "big cat": "lion, tiger, leopard, jaguar, cheetah, snow leopard, cougar",
    "puppy, pup": "Labrador Retriever, Golden Retriever, Beagle, pug, Pomeranian, Toy Poodle",
    "motorcycle, motorbike, motor bike, motor scooter": "moped, vespa, disc brake, crash helmet",
    "bicycle, bike, cycle": "mountain bike, tandem bicycle, tricycle, unicycle",
    "house, home, villa, cottage": (
        "mobile home, boathouse, thatched roof, tile roof, barn, picket fence, patio"
    ),
    "street, road, city, town": (
        "taxicab, parking meter, tram, traffic light, traffic or street sign, trolleybus, minibus"
    ),
    "building, architecture": (
        "church, palace, castle, monastery, library, bell tower, mosque, planetarium, prison"
    ),
    "beach, seaside, coast, shore, sand, sea, ocean": "beach, sandbar, lakeshore, promontory",
    "lake, river, water": "lakeshore, dam, dock, canoe, boathouse, valley",
    "landscape, nature, forest, scenery": "valley, lakeshore, mountain, cliff, promontory",
    "mountains, hill, mountain range": "mountain, valley, volcano",
    "sky, cloud, clouds": "airship, parachute, balloon, airliner, airplane wing",
    "flower, blossom, bouquet": "daisy, yellow lady's slipper, rapeseed, rose hip, vase, plant pot",
    "rose": "rose hip, vase, daisy",
    "tree, palm tree": "fig, Granny Smith apple, lakeshore, horse chestnut seed, park bench",
    "plant, houseplant, leaf": "plant pot, vase, cardoon, rapeseed, daisy, greenhouse, artichoke",
    "grass, lawn, garden, park": "lawn mower, park bench, greenhouse, hay, picket fence, fountain",
    "mouse": "hamster, computer mouse, weasel",
    "rat": "hamster, weasel, mink, mongoose",
    "horse, pony": "common sorrel horse, horse-drawn vehicle",
    "donkey, mule": "common sorrel horse, bullock cart, llama",
    "giraffe": "impala (antelope), cheetah, gazelle, ostrich",
    "deer, elk, moose": "impala (antelope), gazelle, hartebeest, Alpine ibex, bighorn sheep",
    "bat": "baseball, baseball player",
    "phone, cell phone, smartphone": "mobile phone, hand-held computer, iPod",
    "computer, pc": "desktop computer, laptop computer, notebook computer, monitor, computer keyboard",
    "screen, tv, monitor screen": "television, CRT monitor, monitor, entertainment center",
    "boat, ship, yacht": (
        "sailboat, motorboat, canoe, lifeboat, fireboat, schooner, ocean liner, container ship"
    ),
    "truck, lorry": (
        "semi-trailer truck, garbage truck, moving van, tow truck, pickup truck, fire truck"
    ),
    "toy": "teddy bear, toy store, carousel, jigsaw puzzle, pinwheel",
    "book, books": "comic book, bookcase, dust jacket, library, bookstore",
    "glasses": "sunglasses",
    "hat, cap": "cowboy hat, sombrero, poke bonnet, shower cap, swimming cap",
    "money, coin, coins": "piggy bank, wallet, buckle, slot machine",
    "bed, bedroom": "four-poster bed, quilt, pillow, infant bed, couch",
    "kitchen": "stove, refrigerator, dishwasher, microwave oven, toaster, sink, frying pan",
    "crane": "construction crane, crane bird",
    "kite": "parachute, kite (bird of prey), umbrella",
    "football": "soccer ball, rugby ball, football helmet",
    "ball": "soccer ball, volleyball, basketball, tennis ball, baseball, rugby ball, golf ball",
    "bridge": "through arch bridge, suspension bridge, viaduct",
    "fire": "torch, matchstick, stove, candle",
    "snow, winter": "snowplow, dog sled, snowmobile, ski, bobsleigh",
    "dinosaur, t-rex": "triceratops, Komodo dragon",
    "dragon": "Komodo dragon, frilled-necked lizard",
    "ray": "electric ray, stingray",
    "seal": "sea lion",
    "bookshelf": "bookcase",
    "flower pot, flowerpot": "plant pot",
    "window": "window screen, window shade, sliding door",
    "flag, banner": "flagpole",
    "clothes, clothing, fashion": "T-shirt, cardigan, sweatshirt, jeans, suit, gown, miniskirt",
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """N phrases, the unit vectors (N, D) they should land on, and how often each is drawn (N,)."""

    phrases: tuple[str, ...]
    targets: Tensor
    weights: Tensor


class Meanings:
    """What words mean, as unit vectors over the class embeddings.

    Args:
        classes: (1000, D) unit-norm class embeddings.
        names: the 1000 class names in the same order.
        wordnet_ids: their WordNet ids.
        wordnet: the noun hierarchy.
    """

    def __init__(
        self, classes: Tensor, names: Sequence[str], wordnet_ids: Sequence[str], wordnet: WordNet
    ) -> None:
        self.classes, self.wordnet = classes, wordnet
        self.by_name: dict[str, list[int]] = {}
        self.covered: dict[str, list[int]] = {}
        for i, (name, id) in enumerate(zip(names, wordnet_ids, strict=True)):
            self.by_name.setdefault(name.lower(), []).append(i)
            for ancestor in self._upwards(id):
                self.covered.setdefault(ancestor, []).append(i)
        self.person = self.of_names(next(v for k, v in EVERYDAY.items() if k.startswith("person,")))

    def average(self, rows: Sequence[int]) -> Tensor:
        """(D,) the normalised mean of some classes."""
        return F.normalize(self.classes[list(rows)].mean(0), dim=0)

    def of_names(self, listing: str) -> Tensor:
        """(D,) the mean of comma-separated class names; names that do not exist are passed over."""
        rows = [i for name in listing.split(", ") for i in self.by_name.get(name.lower(), ())]
        return self.average(rows)

    def of_sense(self, id: str) -> Tensor | None:
        """(D,) the mean of the classes below a synset; None if it has none."""
        rows = self.covered.get(id)
        return self.average(rows) if rows else None

    def of_word(self, word: str) -> Tensor | None:
        """(D,) the most frequent sense that covers classes and still looks like something."""
        for id in self.wordnet.senses.get(word.lower(), ())[:SENSES_READ]:
            if len(self.covered.get(id, ())) in range(1, TOO_ABSTRACT):
                return self.of_sense(id)
        return None

    def of_kin(self, word: str) -> Tensor | None:
        """(D,) the nearest ancestor of a physical thing's first sense; None for other nouns."""
        synset = self.wordnet.synsets[self.wordnet.senses[word][0]]
        above = list(self._upwards(synset.id))
        if PHYSICAL_ENTITY not in above or word not in synset.words:  # names are capitalised there
            return None
        if PERSON in above:
            return self.person
        near = (id for id in above if len(self.covered.get(id, ())) in KIN)
        return next((self.of_sense(id) for id in near), None)

    def _upwards(self, id: str) -> Iterable[str]:
        """The synset and all above it, nearest first, each once."""
        todo, seen = [id], {id}
        for current in todo:
            yield current
            for parent in self.wordnet.synsets[current].parents:
                if parent not in seen:
                    seen.add(parent)
                    todo.append(parent)


def photo_words(label: str) -> tuple[str, ...]:
    """The words of a photo set's label; the first is the one it is tested with."""
    if label in NO_WORD:
        return ()
    return PHOTO_WORDS.get(label, (label.replace("_", " ").lower(),))


def plural(phrase: str) -> str:
    """The regular English plural of a phrase's last word."""
    if phrase.endswith(("s", "x", "z", "ch", "sh")):
        return phrase if phrase.endswith("s") and not phrase.endswith("ss") else phrase + "es"
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return phrase[:-1] + "ies"
    return phrase + "s"


def build_vocabulary(
    meanings: Meanings,
    seen: Mapping[str, Tensor],
    listed: Mapping[str, str],
    common: Callable[[str], bool],
) -> Vocabulary:
    """All phrases to teach. What comes first wins: names, table, photos, listed words, WordNet.

    Args:
        meanings: of words, over the class embeddings.
        seen: photo label -> (D,) unit vector of its training photos.
        listed: further words with their WordNet id (a validation set's label list; no photo of it).
        common: whether a WordNet noun is common enough to be taught by its ancestors alone.
    """
    entries = {name: (meanings.average(rows), 4.0) for name, rows in meanings.by_name.items()}
    for word, vector in _corrected(meanings, seen).items():
        entries.setdefault(word, (vector, 4.0))
    for word, id in listed.items():
        mean = meanings.of_sense(id)
        if mean is not None:
            entries.setdefault(word.lower(), (mean, 3.0))
    for word in meanings.wordnet.senses:
        if word in entries or any(c.isdigit() for c in word):
            continue
        own = meanings.of_word(word)
        kin = meanings.of_kin(word) if own is None and common(word) else None
        if own is not None:
            entries[word] = (own, 1.0)
        elif kin is not None:
            entries[word] = (kin, 0.4)
    entries[""] = (F.normalize(meanings.classes.mean(0), dim=0), 8.0)
    return Vocabulary(
        tuple(entries),
        torch.stack([target for target, _ in entries.values()]),
        torch.tensor([weight for _, weight in entries.values()]),
    )


def _corrected(meanings: Meanings, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The table's words, and the photo sets' words half from their photos."""
    words = {
        word: meanings.of_names(listing)
        for listed, listing in EVERYDAY.items()
        for word in listed.split(", ")
    }
    for label, vector in seen.items():
        for word in photo_words(label):
            known = words.get(word)
            known = meanings.of_word(word) if known is None else known
            words[word] = vector if known is None else F.normalize(vector + known, dim=0)
    return words
