"""The public endpoints, through Gradio's own client, on the embedded model."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from vlmdefense_demo import __version__
from vlmdefense_demo.images import fit, read_upload
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.survey import SURVEY, methods, usable

LABELS = ["cat", "dog", "lion", "car"]
ENDPOINTS = {
    "/classify": ["image", "labels", "template", "model"],
    "/attack": ["image", "labels", "attack", "attack_params", "target", "seed", "template", "model",
        "goal", "second",
    ],
    "/defend": ["image", "labels", "defenses", "seed", "template", "model"],
    "/compare": [
        "image", "labels", "attack", "attack_params", "defenses", "target", "seed", "template",
        "model", "goal", "second", "attacker",
    ],
    "/methods": [],
    "/version": [],
    "/health": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def cat(photos) -> Path:
    return photos["cat"]


def top(prediction: dict) -> str:
    return prediction["labels"][int(np.argmax(prediction["logits"]))]


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def refusal(client: Client, *args, api_name: str, **kwargs) -> str:
    """The one sentence (with its cure) an endpoint refuses an input with."""
    with pytest.raises(AppError) as raised:
        client.predict(*args, api_name=api_name, **kwargs)
    sentence = str(raised.value)
    assert "Traceback" not in sentence
    assert "upstream Gradio app" not in sentence, "an exception without a sentence"
    assert "\n" not in sentence
    assert 10 < len(sentence) <= 400
    assert sentence[-1] in ".”]"
    return sentence


# what there is


def test_exactly_these_endpoints_are_public(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert api["unnamed_endpoints"] == {}
    found = {
        name: [p["parameter_name"] for p in endpoint["parameters"]]
        for name, endpoint in api["named_endpoints"].items()
    }
    assert found == ENDPOINTS


def test_methods_lists_every_row_with_ranges_in_255ths(client):
    rows = {row["id"]: row for row in client.predict(api_name="/methods")}
    assert list(rows) == list(SURVEY)
    eps = next(p for p in rows["pgd"]["parameters"] if p["name"] == "eps")
    assert (eps["default"], eps["minimum"], eps["maximum"], eps["unit"]) == (4, 0, 128, "/255")


def test_version_names_libraries_models_and_device(client):
    answer = client.predict(api_name="/version")
    assert answer["vlmdefense_demo"] == __version__
    assert answer["models"] == list(MODELS)
    assert {"torch", "gradio", "open_clip_torch", "device", "python"} <= set(answer)


def test_health_says_that_the_model_is_ready(client, pocket):
    assert client.predict(api_name="/health") == {
        "schema": 1, "status": "ready", "model": "pocket", "error": "",
    }  # fmt: skip


# what it answers


def test_classify_ranks_all_labels(client, cat):
    answer = client.predict(handle_file(cat), LABELS, api_name="/classify")
    probs = [row["prob"] for row in answer["top"]]
    assert answer["top"][0]["label"] == "cat"
    assert sorted(row["label"] for row in answer["top"]) == sorted(LABELS)
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1)
    assert answer["passes"]["image_forward"] == 1
    assert answer["ms"] > 0


def test_classify_takes_labels_as_one_text(client, cat):
    as_text = client.predict(handle_file(cat), "cat, dog\nlion,car", api_name="/classify")
    as_list = client.predict(handle_file(cat), LABELS, api_name="/classify")
    assert as_text["top"] == as_list["top"]


# attacks with a radius that need nothing but a picture and whose change is never empty
SIZED = [
    e.id for e in methods("attack").values()
    if "eps" in e.cls.__dataclass_fields__ and e.cls.interactive and not e.cls.needs
]  # fmt: skip


@pytest.mark.parametrize("eps", [1, 4])
@pytest.mark.parametrize("attack", SIZED)
def test_the_delivered_file_is_inside_the_ball(client, cat, attack, eps):
    few = {"steps": 3, "queries": 10}  # the file is judged here, not the strength
    params = {"eps": eps} | {k: v for k, v in few.items() if methods("attack")[attack].takes(k)}
    path, report = client.predict(handle_file(cat), LABELS, attack, params, api_name="/attack")
    clean = np.asarray(fit(read_upload(cat).image, 224)).astype(int)
    delta = pixels(path) - clean
    assert 0 < np.abs(delta).max() <= eps
    assert report["attack"]["linf"] == np.abs(delta).max()
    assert report["attack"]["changed"] == pytest.approx((delta != 0).any(2).mean())
    assert report["attack"]["params"]["eps"] == eps


def test_the_delivered_file_still_fools_after_download_and_upload(client, cat):
    path, report = client.predict(
        handle_file(cat), LABELS, "pgd", {"eps": 8, "steps": 20}, api_name="/attack"
    )
    assert report["attack"]["success"]
    assert top(report["clean"]) == "cat"
    again = client.predict(handle_file(path), LABELS, api_name="/classify")
    assert again["top"][0]["label"] == top(report["attacked"]) != "cat"
    measured = dict(zip(LABELS, report["attacked"]["probs"], strict=True))
    for row in again["top"]:
        assert row["prob"] == pytest.approx(measured[row["label"]], abs=1e-5)


def test_a_targeted_attack_succeeds_only_with_its_target(client, cat):
    _, report = client.predict(
        handle_file(cat), LABELS, "pgd", {"eps": 8, "steps": 20}, "dog", api_name="/attack"
    )
    assert report["attack"]["targeted"]
    assert report["attack"]["success"] == (top(report["attacked"]) == "dog")
    assert report["attack"]["success"]


def test_a_goal_can_be_a_rank_a_text_or_a_second_picture(client, cat, photos, tmp_path):
    def reach(goal: str, **more) -> dict:
        params = {"eps": 8, "steps": 20}
        return client.predict(
            handle_file(cat), LABELS, "pgd", params, goal=goal, api_name="/attack", **more
        )[1]

    ranks = [row["label"] for row in client.predict(
        handle_file(cat), LABELS, api_name="/classify")["top"]]  # fmt: skip
    assert top(reach("runner-up")["attacked"]) == ranks[1]
    assert top(reach("least likely")["attacked"]) == ranks[-1]
    assert top(reach("caption", target="a fire engine")["attacked"]) == "a fire engine"
    second = handle_file(photos["lion"])
    assert top(reach("picture", second=second)["attacked"]) == "lion"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    assert "not a picture that can be read" in refusal(
        client, handle_file(cat), LABELS, goal="picture", second=handle_file(broken),
        api_name="/attack",
    )  # fmt: skip


def test_an_aware_attacker_adds_its_ladder_to_every_card(client, cat):
    asked = {"attack": "pgd", "attack_params": {"eps": 4}, "defenses": ["fare"]}
    _, report = client.predict(
        handle_file(cat), LABELS, attacker="aware", api_name="/compare", **asked
    )
    names = [rung["name"] for rung in report["cards"][1]["ladder"]]
    order = ["transfer", "white_box", "adaptive", "black_box"]
    assert names == order[: len(names)]
    assert len(names) > 1
    _, report = client.predict(handle_file(cat), LABELS, api_name="/compare", **asked)
    assert [rung["name"] for rung in report["cards"][1]["ladder"]] == ["transfer"]


def test_the_same_seed_gives_the_same_file(client, cat):
    params = {"eps": 1, "steps": 2, "restarts": 1, "stop_early": False}
    files = [
        Path(client.predict(handle_file(cat), LABELS, "pgd", params, "", seed,
                            api_name="/attack")[0]).read_bytes()
        for seed in (0, 0)
    ]  # fmt: skip
    assert files[0] == files[1]


def test_defend_answers_one_row_a_defence(client, cat):
    answer = client.predict(
        handle_file(cat), LABELS, {"rtpt": {"views": 8}, "fare": {}}, api_name="/defend"
    )
    rows = answer["defenses"]
    assert [(row["id"], row["paradigm"]) for row in rows] == [
        ("rtpt", "test_time"), ("fare", "training_time"),
    ]  # fmt: skip
    assert rows[0]["passes"]["image_forward"] == 8
    assert rows[1]["top"][0]["label"] == "cat"


def test_two_defences_in_a_row_are_one_row(client, cat):
    chosen = {"fare": {}, "fare+anti_adversary": {"anti_adversary_steps": 3}}
    answer = client.predict(handle_file(cat), LABELS, chosen, api_name="/defend")
    fare, both = answer["defenses"]
    assert (both["id"], both["paradigm"]) == ("fare+anti_adversary", "training_free")
    passes = [(r["passes"]["image_forward"], r["passes"]["image_backward"]) for r in (fare, both)]
    assert passes == [(1, 0), (4, 3)]


def test_a_defence_that_cannot_run_is_a_row_with_its_error(client, cat):
    answer = client.predict(handle_file(cat), LABELS, ["rtpt", "fare"], 0, "{}", api_name="/defend")
    rtpt, fare = answer["defenses"]
    assert "top" not in rtpt
    assert "words before the label" in rtpt["error"]
    assert fare["top"]


def test_compare_answers_all_cards_about_one_file(client, cat):
    path, report = client.predict(
        handle_file(cat), LABELS, "pgd", {"eps": 8}, {"ttc": {}, "rtpt": {"views": 8}},
        api_name="/compare",
    )  # fmt: skip
    undefended, *cards = report["cards"]
    assert [c["method"] for c in report["cards"]] == ["undefended", "ttc", "rtpt"]
    assert undefended["attack"]["png"] == Path(path).stat().st_size
    assert cards[1]["params"]["views"] == 8
    assert cards[1]["cost"]["image_forward"] == 8
    for card in report["cards"]:
        assert card["reference"] == undefended["reference"] == "cat"
        right = top(card["clean"]) == "cat", top(card["attacked"]) == "cat"
        expected = "wrong_clean" if not right[0] else "held" if right[1] else "fooled"
        assert card["verdict"] == expected


def test_compare_runs_every_defence_unless_told_otherwise(client, cat):
    _, report = client.predict(handle_file(cat), LABELS, "fgsm", {}, api_name="/compare")
    assert [c["method"] for c in report["cards"]] == ["undefended", *usable("pocket")]
    _, report = client.predict(handle_file(cat), LABELS, "fgsm", {}, [], api_name="/compare")
    assert [c["method"] for c in report["cards"]] == ["undefended"]


def comparable(answer: tuple[str, dict]) -> tuple:
    """What of a comparison must not depend on who else is there."""
    path, report = answer
    cards = [
        (c["method"], c["verdict"], c["clean"], c["attacked"], c["cost"]["image_forward"])
        for c in report["cards"]
    ]
    return Path(path).read_bytes(), cards


def test_clients_at_once_get_their_own_results(app_url, client, photos):
    jobs = [
        (photos["cat"], ["cat", "dog", "lion"], 1),
        (photos["coffee"], ["coffee", "soup", "wine", "bread"], 4),
        (photos["rocket"], ["rocket", "tower"], 2),
    ]

    def ask(who: Client, job):
        photo, labels, eps = job
        chosen = {"rtpt": {"views": 2}, "ttc": {}}
        return comparable(
            who.predict(
                handle_file(photo), labels, "pgd", {"eps": eps}, chosen, api_name="/compare"
            )
        )

    alone = [ask(client, job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        clients = list(pool.map(lambda _: Client(app_url, verbose=False), jobs))
        together = list(pool.map(ask, clients, jobs))
    assert together == alone
    assert len({png for png, _ in alone}) == len(jobs)


# what it refuses


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "at least 2 different ones, got 0"),
        (["cat"], "at least 2 different ones, got 1"),
        (["cat", " Cat "], "at least 2 different ones, got 1"),
        (["", "\n", "cat"], "at least 2 different ones, got 1"),
        ([f"label {i}" for i in range(500)], "at most 100 labels, got 500"),
        (["x" * 400, "dog"], "400 characters"),
        ([1, 2], "Labels are text, got int"),
        ({"cat": 1}, "labels expects a list of text, got dict"),
        (7, "labels expects a list of text, got int"),
        (None, "labels expects a list of text, got NoneType"),
        (["ab " * 26, "dog"], "this model reads 32"),
    ],
)
def test_labels_that_cannot_be_used(client, cat, labels, sentence):
    assert sentence in refusal(client, handle_file(cat), labels, api_name="/classify")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attack": "nope"}, "Unknown attack 'nope'. Known: "),
        ({"attack": "fare"}, "Unknown attack 'fare'"),
        ({"attack": ""}, "Unknown attack ''"),
        ({"attack": None}, "Unknown attack ''"),
        ({"attack_params": {"eps": 129}}, "eps=129 is outside [0, 128] /255"),
        ({"attack_params": {"eps": -1}}, "eps=-1 is outside"),
        ({"attack_params": {"eps": "4"}}, "eps expects a finite number, got '4'"),
        ({"attack_params": {"eps": None}}, "eps expects a finite number, got None"),
        ({"attack_params": {"eps": [4]}}, "eps expects a finite number, got [4]"),
        ({"attack_params": {"steps": 0}}, "steps=0 is outside [1, 200]"),
        ({"attack_params": {"steps": 2.5}}, "steps expects int, got 2.5"),
        ({"attack_params": {"steps": True}}, "steps expects int, got True"),
        ({"attack_params": {"loss": "mse"}}, "loss='mse' is not one of"),
        ({"attack_params": {"nope": 1}}, "Unknown parameter 'nope'. Known: "),
        ({"attack_params": [4]}, "attack_params expects an object, got [4]"),
        ({"attack_params": "eps=4"}, "attack_params expects an object"),
        ({"defenses": ["nope"]}, "Unknown defense 'nope'. Known: "),
        ({"defenses": ["pgd"]}, "Unknown defense 'pgd'"),
        ({"defenses": "fare"}, "defenses expects a list of ids or an object"),
        ({"defenses": ["rtpt+fare"]}, "FARE after R-TPT comes too late"),
        ({"defenses": {"fare+ttc": {"steps": 3}}}, "Unknown parameter 'steps'. Known: fare_alpha"),
        ({"defenses": [1]}, "defenses expects a list of ids or an object"),
        ({"defenses": {"rtpt": 8}}, "defenses expects a list of ids or an object"),
        ({"defenses": {"rtpt": {"views": 1}}}, "views=1 is outside [2, 64]"),
        ({"defenses": {"rtpt": {"views": 10**300}}}, "is outside [2, 64]"),
        ({"attack_params": {"eps": 10**400}}, "eps expects a finite number"),
        ({"attack_params": {"loss": "x " * 9000}}, "loss='x"),
        ({"target": "zebra"}, "“zebra” is not among the labels"),
        ({"target": "cat"}, "The target “cat” is already the answer"),
        ({"goal": "nope"}, "Unknown goal 'nope'. Known: wrong, runner-up"),
        ({"goal": 3}, "Unknown goal '3'"),
        ({"goal": "label"}, "There is no target label"),
        ({"attack": "autoattack", "attack_params": {}}, "AutoAttack takes minutes a picture"),
        ({"goal": "caption"}, "There is no text to aim at"),
        ({"goal": "picture"}, "There is no picture to aim at"),
        ({"attack": "image_target"}, "aims at a second picture"),
        ({"attack": "caption"}, "aims at a text of your own"),
        ({"attack_params": {"eps": 0.2}}, "rounds to 0 grey levels"),
        ({"attacker": "nope"}, "Unknown attacker 'nope'. Known: unaware, aware"),
        ({"attacker": []}, "Unknown attacker '[]'"),
        ({"target": ["dog"]}, "is not among the labels"),
        ({"seed": "x"}, "seed expects a whole number, got 'x'"),
        ({"seed": 1.5}, "seed expects a whole number, got 1.5"),
        ({"template": "a photo"}, "exactly one {}"),
        ({"template": None}, "exactly one {}"),
        ({"template": "x" * 200 + "{}"}, "at most 120"),
        ({"model": "nope"}, "Unknown model 'nope'"),
        ({"model": None}, "Unknown model None"),
        ({"model": "local-dir:/etc"}, "Unknown model 'local-dir:/etc'"),
        ({"model": "hf-hub:someone/something"}, "Unknown model 'hf-hub:someone/something'"),
        ({"model": "ViT-B-32"}, "embedded model"),  # a hub model, and there is no network
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be_used(client, cat, change, sentence):
    given = {"attack_params": {"steps": 1}, "defenses": []} | change
    said = refusal(client, image=handle_file(cat), labels=LABELS, api_name="/compare", **given)
    assert sentence in said


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "There is no picture. Upload one first."),
        ("hello", "A picture is expected as an uploaded file."),
        (5, "A picture is expected as an uploaded file."),
        ([1], "A picture is expected as an uploaded file."),
        ({"x": 1}, "There is no picture. Upload one first."),
    ],
)
def test_an_image_that_is_no_file(client, value, sentence):
    assert sentence in refusal(client, value, LABELS, api_name="/classify")


# pictures


def picture(size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image


def damaged(path: Path) -> None:
    picture((300, 300)).save(path.with_suffix(".jpg"))
    path.write_bytes(path.with_suffix(".jpg").read_bytes()[:400])


def animated(path: Path) -> None:
    frames = [picture(), Image.new("RGB", (80, 60), "green")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def sixteen_bit(path: Path) -> None:
    levels = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    Image.fromarray(levels).save(path, "PNG")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, "JPEG", exif=exif)


def transparent(path: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path, "PNG")


GOOD = {
    "animated GIF": animated,
    "16-bit grey": sixteen_bit,
    "CMYK": lambda path: picture().convert("CMYK").save(path, "JPEG"),
    "palette": lambda path: picture().convert("P").save(path, "PNG"),
    "palette with transparency": lambda p: picture().convert("P").save(p, "PNG", transparency=0),
    "alpha": transparent,
    "one bit": lambda path: picture().convert("1").save(path, "PNG"),
    "turned by EXIF": turned,
    "WEBP": lambda path: picture().save(path, "WEBP"),
    "BMP": lambda path: picture().save(path, "BMP"),
    "very wide": lambda path: picture((4000, 16)).save(path, "PNG"),
}
BAD = {
    "empty": (lambda path: path.write_bytes(b""), "The file is empty"),
    "text": (lambda path: path.write_text("hello"), "not a picture that can be read"),
    "half a JPEG": (damaged, "not a picture that can be read, or it is damaged"),
    "one pixel": (lambda path: picture((1, 1)).save(path, "PNG"), "1×1 pixels; each side needs"),
    "SVG": (lambda p: p.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a picture"),
    "TIFF": (lambda path: picture().save(path, "TIFF"), "Use PNG, JPEG, WEBP, BMP, GIF"),
    "16 megapixels": (lambda path: Image.new("1", (4000, 4000)).save(path, "PNG"), "12.5 million"),
    "a bomb": (lambda path: Image.new("1", (14000, 14000)).save(path, "PNG"), "large"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_unusual_pictures_are_read(client, tmp_path, kind):
    path = tmp_path / "upload.png"
    GOOD[kind](path)
    answer = client.predict(handle_file(path), LABELS, api_name="/classify")
    assert sum(row["prob"] for row in answer["top"]) == pytest.approx(1)


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_no_usable_picture(client, tmp_path, kind):
    write, sentence = BAD[kind]
    path = tmp_path / "upload.png"
    write(path)
    said = refusal(client, handle_file(path), LABELS, api_name="/classify")
    assert re.search(re.escape(sentence), said), said


def test_a_refusal_leaves_the_next_request_alone(client, cat, tmp_path):
    before = client.predict(handle_file(cat), LABELS, api_name="/classify")["top"]
    BAD["half a JPEG"][0](tmp_path / "x.png")
    refusal(client, handle_file(tmp_path / "x.png"), LABELS, api_name="/classify")
    refusal(client, handle_file(cat), ["cat"], api_name="/classify")
    assert client.predict(handle_file(cat), LABELS, api_name="/classify")["top"] == before
