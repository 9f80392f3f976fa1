import base64
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from segwright.report.content import Example, ImageScore, Report, Scores, Timing
from segwright.report.html import page, write_report
from segwright.types import Classes

SECTIONS = ("examples", "classes", "confusion", "images", "curves", "speed", "recipe", "data", "environment", "use")
EVIL = '<script>alert("1")</script> & Söhne'


def scores(num_classes: int = 3, num_images: int = 5, name: str = "class") -> Scores:
    generator = np.random.default_rng(0)
    confusions = generator.integers(0, 20, size=(num_images, num_classes, num_classes))
    confusions = confusions + 90 * np.eye(num_classes, dtype=np.int64)
    colors = tuple((index, 2 * index % 256, 200) for index in range(num_classes))
    names = tuple(f"{name} {index}" for index in range(num_classes))
    return Scores.of(confusions, Classes(names, colors), "Whole images, no flips.", resamples=50)


def example(size: tuple[int, int] = (40, 60), name: str = "street", channels: int = 3) -> Example:
    generator = np.random.default_rng(1)
    mask = generator.integers(3, size=size).astype(np.uint8)
    mask[:4] = 255
    image = generator.integers(255, size=(*size, channels)).astype(np.uint8)
    return Example(name, image, mask, np.flip(mask, 1).copy() % 3, 0.4)


def whole(name: str = "run", class_name: str = "class") -> Report:
    rows = [
        {"step": step, "elapsed_s": 3.0 * step, "loss": 1 / (step + 1), "learning_rate": 1e-3} for step in range(90)
    ]
    return Report(
        title=name,
        scores=scores(name=class_name),
        images=[ImageScore(f"{name} {index}", index / 5, 0.9) for index in range(5)],
        worst=[example(name=name)],
        best=[example(name=name, channels=1)],
        history=rows,
        validation=[{"step": 30, "elapsed_s": 90.0, "miou": 0.5}, {"step": 89, "elapsed_s": 270.0, "miou": 0.7}],
        timing=Timing(4.5, 20.0, 0.02, 35.0),
        recipe=f"network: unet\ntitle: {name}\n",
        data={"pairs": {"train": 48, name: 12}, "class_shares": {name: 0.25}, "problems": [f"{name} is odd"]},
        environment={"torch": "2.11", "command": name, "seed": 0, "gpu": None},
        segmenter=f"runs/{name}/segmenter",
    )


class Balance(HTMLParser):
    """Fails on a tag that closes another than the last open one."""

    void = frozenset({"meta", "img", "br", "path", "circle", "polyline", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_from_outside(tmp_path):
    write_report(tmp_path / "new" / "report.html", whole())
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", re.sub(r'src="data:[^"]*"', "", text))
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert not re.search(r"<(script|link|iframe|object|embed)\b", text)
    assert "@import" not in text
    assert "url(" not in text


def test_every_section_is_there_once_and_in_order():
    assert tuple(parsed(page(whole())).ids) == SECTIONS


def test_names_are_shown_as_text_whatever_they_hold():
    parser = parsed(page(whole(name=EVIL, class_name=EVIL)))
    assert "script" not in parser.tags
    assert parser.text.count('alert("1")') > 15


def test_the_headline_gives_score_interval_and_protocol():
    measured = scores()
    text = parsed(page(Report(title="run", scores=measured))).text
    assert f"{float(measured.mean_iou.value):.3f}" in text
    assert f"between {float(measured.mean_iou.low):.3f} and {float(measured.mean_iou.high):.3f} (95% interval" in text
    assert "Measured on 5 images. Whole images, no flips." in text


def test_examples_show_image_mask_prediction_and_errors():
    text = page(whole())
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 8
    shapes = {cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape for data in pictures}
    assert shapes == {(40, 60, 3)}
    for kind in ("Image", "Mask", "Prediction", "Errors"):
        assert text.count(f"<figcaption>{kind}</figcaption>") == 2


def test_sixteen_large_noisy_examples_stay_below_five_megabytes():
    text = page(Report(title="run", scores=scores(), worst=[example((600, 900))] * 8, best=[example((900, 600))] * 8))
    assert len(text) < 5e6


@pytest.mark.parametrize("num_classes", [1, 2, 30, 150])
def test_any_number_of_classes_is_shown(num_classes):
    text = page(Report(title="run", scores=scores(num_classes)))
    table = text[text.index('class="heat') :].split("</table>")[0]
    assert table.count("<td") == num_classes**2
    parsed(text)


def test_the_confusion_matrix_shows_shares_of_the_true_class():
    confusions = np.array([[[75, 25], [0, 10]]])
    measured = Scores.of(confusions, Classes(("sky", "road"), ((0, 0, 0), (9, 9, 9))), "", resamples=10)
    text = parsed(page(Report(title="run", scores=measured))).text
    assert "sky was taken for road in 25.0% of its pixels." in text
    assert "75.0" in text
    assert "100.0" in text


def test_a_perfect_network_confuses_nothing():
    confusions = np.stack([np.eye(2, dtype=np.int64) * 9] * 3)
    measured = Scores.of(confusions, Classes(("sky", "road"), ((0, 0, 0), (9, 9, 9))), "", resamples=10)
    assert "No pixel was given a wrong class." in page(Report(title="run", scores=measured))


def test_one_image_has_a_score_but_no_interval():
    text = parsed(page(Report(title="run", scores=scores(num_images=1), images=[ImageScore("a", 0.5, 0.6)]))).text
    assert "There is no interval" in text
    assert "nan" not in text.lower()


def test_scores_that_are_not_defined_are_dashes():
    confusions = np.zeros((2, 2, 2), np.int64)
    nothing = Scores.of(confusions, Classes(("a", "b"), ((0, 0, 0), (9, 9, 9))), "", resamples=10)
    blank = example()
    unknown = Example("blank", blank.image, blank.mask, blank.predicted, math.nan)
    report = Report(title="run", scores=nothing, images=[ImageScore("x", math.nan, math.nan)], worst=[unknown])
    text = parsed(page(report)).text
    assert "No pixel was measured" in text
    assert not re.search(r"\bnan\b|\binf\b", text.split("}")[-1].lower())


def test_a_class_without_pixels_does_not_hide_the_others():
    confusions = np.stack([np.diag([8, 9, 0])] * 4)
    measured = Scores.of(confusions, Classes(("a", "b", "c"), ((0, 0, 0),) * 3), "", resamples=10)
    assert float(measured.mean_iou.value) == 1
    parsed(page(Report(title="run", scores=measured)))


def test_a_run_without_history_says_so():
    assert page(Report(title="run", scores=scores())).count("Nothing was recorded.") == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 5.0, -3.0])
def test_curves_draw_one_row_and_leave_out_what_is_not_finite(loss):
    row = {"step": 1.0, "elapsed_s": 0.0, "loss": loss, "learning_rate": 1e-5}
    text = page(Report(title="run", scores=scores(), history=[row]))
    assert text.count("<polyline") == (2 if math.isfinite(loss) else 1)
    assert not re.search(r'points="[^"]*(nan|inf)', text)


def test_long_histories_stay_small():
    rows = [{"elapsed_s": float(step), "loss": 1.0 + step % 7, "learning_rate": 1e-3} for step in range(2000)]
    assert len(page(Report(title="run", scores=scores(), history=rows))) < 60_000


def test_problems_of_the_data_stand_out():
    found = page(Report(title="run", scores=scores(), data={"problems": ["mask 3 is empty"]}))
    assert '<div class="problems"><b>Problems found</b><ul><li>mask 3 is empty</li>' in found
    assert "No problem was found" in page(Report(title="run", scores=scores(), data={"problems": []}))


def test_more_images_than_fit_are_cut_and_counted():
    images = [ImageScore(f"image {index}", index / 1000, 0.5) for index in range(900)]
    text = page(Report(title="run", scores=scores(), images=images))
    assert "The 200 lowest of 900 images" in text
    assert "<td>image 199</td>" in text
    assert "<td>image 200</td>" not in text


def test_the_same_content_gives_the_same_page():
    assert page(whole()) == page(whole())


def test_names_of_other_classes_than_the_matrices_are_refused():
    with pytest.raises(ValueError, match="have 4 classes, but 2 are named"):
        Scores.of(np.ones((3, 4, 4), np.int64), Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))), "")


@pytest.mark.slow
def test_the_page_is_made_without_torch():
    code = "import sys, segwright.report.html, segwright.data.cells; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
