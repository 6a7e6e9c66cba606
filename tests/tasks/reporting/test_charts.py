"""Charts of the report: what their axes say."""

import re

import pytest

from tasks.reporting.charts import Line, line_chart


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_epochs_are_whole_numbers(epochs):
    numbers = list(range(1, epochs + 1))
    below = labels(line_chart("Loss", [Line("loss", numbers, numbers, "pretrained")], "epoch"))
    across = [text for _, anchor, text in below if anchor == "middle" and text != "epoch"]
    assert across and set(across) <= {str(n) for n in range(epochs + 1)}


@pytest.mark.parametrize("values", [(0.0202, 0.0209), (-0.00412, -0.0039), (1e-7, 2e-7)])
def test_numbers_beside_the_axis_fit(values):
    beside = labels(line_chart("Std", [Line("std", [1, 2], values, "pretrained")], "epoch"))
    places = [(right, text) for right, anchor, text in beside if anchor == "end"]
    assert places and all(right >= 7 * len(text) for right, text in places), places


def labels(chart):
    """Place, anchor and text of each label."""
    pattern = r'<text class="label " x="([0-9.]+)" y="[0-9.]+" text-anchor="(\w+)">([^<]+)<'
    return [(float(x), anchor, text) for x, anchor, text in re.findall(pattern, chart)]
