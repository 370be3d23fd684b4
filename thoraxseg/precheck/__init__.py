"""Does this image look like what the checkpoint was trained on? Said in words, before the result.

`check_input` and `check_prepared` warn in the log, the result and the report; `lights` shows the same facts, and
more, as traffic lights before a run; `FIXES` are what can be done about them, on a copy of the image.
"""

from thoraxseg.precheck.checks import check_input, check_prepared
from thoraxseg.precheck.findings import MAX_SCALE, OBLIQUE_DEGREES, Level, words
from thoraxseg.precheck.fixes import (
    FIXES,
    Fix,
    declare_orientation,
    enhance_contrast,
    reorient,
    set_spacing,
    swap_sides,
)
from thoraxseg.precheck.lights import KEYS, Light, lights, lights_without
from thoraxseg.precheck.memory import Forecast, forecast_memory

__all__ = [
    "FIXES",
    "KEYS",
    "MAX_SCALE",
    "OBLIQUE_DEGREES",
    "Fix",
    "Forecast",
    "Level",
    "Light",
    "check_input",
    "check_prepared",
    "declare_orientation",
    "enhance_contrast",
    "forecast_memory",
    "lights",
    "lights_without",
    "reorient",
    "set_spacing",
    "swap_sides",
    "words",
]
