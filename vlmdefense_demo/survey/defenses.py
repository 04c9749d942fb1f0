"""The rows of the defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.test_time import TEST_TIME
from vlmdefense_demo.survey.training_free import TRAINING_FREE
from vlmdefense_demo.survey.training_time import TRAINING_TIME

# One of each paradigm, ticked when the page opens: a comparison a laptop finishes in seconds.
FIRST = ("fare", "rtpt", "ttc")
DEFENSES = TRAINING_TIME + TEST_TIME + TRAINING_FREE
