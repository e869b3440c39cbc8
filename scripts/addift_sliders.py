"""What the WebUI loads: registers the sliders in txt2img and img2img. Everything else is in lib_addift."""

from modules import script_callbacks

from lib_addift.hosts import sliders
from lib_addift.ui.sliders import build_sliders


class DifferenceSliders(sliders.SlidersScript):
    build = staticmethod(build_sliders)


script_callbacks.on_before_ui(sliders.add_axes)
