"""The page stands alone, tells the truth in its headline and takes any names and numbers."""

import re

import numpy as np
import pytest

from tasks.reporting.report import headline, render
from tasks.reporting.thumbnails import data_uri


def make_content(classes=("ant", "bee"), gain=(0.05, 0.03, 0.07, 3), draws=3):
    many = len(classes)
    confusion = np.full((many, many), 2) + 20 * np.eye(many, dtype=int)
    accuracy = {"mean": 0.8, "low": 0.78, "high": 0.82, "n": draws}
    if gain[1] is None:
        accuracy |= {"low": None, "high": None}
    return {
        "version": 1,
        "metrics": {
            "label_fraction": 0.01,
            "labels": 60,
            "label_overlap": 0.1,
            "pretrained": {"accuracy": accuracy},
            "scratch": {"accuracy": accuracy | {"mean": 0.75}},
            "gain": dict(zip(("mean", "low", "high", "n"), gain, strict=True)),
            **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "knn", "linear"), 0.8),
            "ece": 0.02,
            "abstention": None,
            "test_digest": "0" * 64,
        },
        "draws": [{"draw": i, "pretrained": 0.8, "scratch": 0.75} for i in range(draws)],
        "classes": [
            {"name": n, "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 10} for n in classes
        ],
        "confusion": confusion.tolist(),
        "confused": [{"actual": classes[0], "predicted": classes[1], "count": 2, "share": 0.1}],
        "reliability": {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.9], "count": [3, 7]},
        "data": {
            "train": 6000,
            "test": 10,
            "size": 8,
            "channels": 3,
            "left_out": 3,
            "quarantined": 1,
            "passed_over": {"hidden files": 7},
            "reasons": [{"reason": "truncated", "count": 1, "example": "<b>x</b>.png"}],
        },
        "samples": [{"name": n, "ids": ["a"]} for n in classes],
        "method_pictures": [],
        "pretraining": {"epoch": [1, 2], "loss": [3.0, 2.0], "knn": [None, 0.5]},
        "finetuning": {"fits": [{"arm": "scratch", "draw": 0, "step": [1, 2], "loss": [1.0, 0.5]}]},
        "map": {
            "ids": ["a"] * many,
            "x": list(range(many)),
            "y": list(range(many)),
            "label": list(range(many)),
        },
        "neighbours": [
            {"id": "a", "name": classes[0], "nearest": [{"id": "a", "name": None, "cosine": 1.0}]}
        ],
        "mistakes": [
            {"id": "a", "actual": classes[0], "predicted": classes[1], "confidence": 0.99}
        ],
        "setup": {"neighbours": 20, "rows": [["Encoder", "name=resnet_tiny"]]},
    }


PICTURES = {"a": data_uri(np.zeros((8, 8, 3), np.uint8))}


def test_page_refers_to_nothing_outside_itself():
    page = render(make_content(), PICTURES)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert all(s.startswith("data:image/") for s in re.findall(r'src="([^"]*)', page))


def test_names_are_escaped_wherever_they_stand():
    page = render(make_content(classes=("<script>alert(1)</script>", 'a"b&c')), PICTURES)
    assert "<script" not in page and "<b>x</b>" not in page
    assert "&lt;script&gt;" in page and 'alt="labelled a"' not in page


def test_page_counts_what_was_quarantined_dropped_and_passed_over():
    page = render(make_content(), PICTURES)
    assert "3: 1 quarantined, 2 exact duplicates" in page
    assert "<dt>Passed over</dt><dd>7 hidden files</dd>" in page


@pytest.mark.parametrize(
    ("gain", "outcome", "words"),
    [
        ((0.05, 0.03, 0.07, 3), "win", "wins by 5.0 points"),
        ((-0.02, -0.03, -0.01, 3), "loss", "loses by 2.0 points"),
        ((0.01, -0.01, 0.03, 3), "open", "No clear difference"),
        ((0.05, None, None, 1), "open", "One draw"),
    ],
)
def test_headline_claims_no_more_than_the_interval(gain, outcome, words):
    found = headline(make_content(gain=gain)["metrics"])
    assert found["outcome"] == outcome and words in found["title"]


def test_single_draw_says_that_there_is_no_interval():
    page = render(make_content(gain=(0.05, None, None, 1), draws=1), PICTURES)
    assert "one draw: no interval" in page and "None" not in page


def test_page_says_what_a_single_test_image_weighs():
    page = render(make_content() | {"data": make_content()["data"] | {"test": 30}}, PICTURES)
    assert "30; each is 3.3 points of accuracy" in page


def test_page_works_without_training_histories():
    page = render(make_content() | {"pretraining": None, "finetuning": None}, PICTURES)
    assert "How training went" not in page


def test_page_shows_all_that_the_method_measures_by_its_name_in_words():
    history = {"epoch": [1, 2], "masked_mse": [0.2, 0.1], "lr": [0.1, 0.0], "loss": [3.0, 2.0]}
    page = render(make_content() | {"pretraining": history}, PICTURES)
    titles = re.findall(r"<figure><h3>(.*?)</h3>", page)
    assert titles == ["Loss", "Masked mse"]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (100, 100, 3)])
def test_page_shows_what_the_method_makes_of_images_row_by_row(shape):
    rows = [
        {"caption": caption, "ids": [f"made/{number}/{i}" for i in range(2)]}
        for number, caption in enumerate(("training images", "<rebuilt>"))
    ]
    made = {i: data_uri(np.zeros(shape, np.uint8)) for row in rows for i in row["ids"]}
    page = render(make_content() | {"method_pictures": rows}, PICTURES | made)
    told = [f"training images, image {i}" for i in (1, 2)]
    told += [f"&lt;rebuilt&gt;, image {i}" for i in (1, 2)]
    assert [alt for alt in re.findall(r'alt="([^"]*)"', page) if ", image " in alt] == told
    assert "What the pretraining method makes" not in render(make_content(), PICTURES)


def test_pictures_stand_on_the_page_even_without_histories():
    rows = [{"caption": "rebuilt", "ids": ["a"]}]
    empty = {"pretraining": None, "finetuning": None, "method_pictures": rows}
    assert 'alt="rebuilt, image 1"' in render(make_content() | empty, PICTURES)


@pytest.mark.parametrize("many", [2, 35, 100])
def test_page_takes_any_number_of_classes(many):
    page = render(make_content(classes=[f"class {i}" for i in range(many)]), PICTURES)
    assert page.count('class="heat"') == many * many
    assert len(page) < 3_000_000


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (200, 100, 3)])
def test_any_image_becomes_a_small_picture_with_the_same_text_each_time(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    uri = data_uri(image)
    assert uri == data_uri(image.copy()) and len(uri) < 12_000
    assert uri.startswith("data:image/jpeg" if shape[0] > 48 else "data:image/png")
