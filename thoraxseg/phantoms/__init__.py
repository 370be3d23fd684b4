"""Synthetic chests with known answers: mouse micro-CT, mouse MRI and human CT.

The same seed gives the same animal; facts that are known on paper come with it (`Phantom.facts`).
"""

from __future__ import annotations

from thoraxseg.phantoms.human import human_chest_ct
from thoraxseg.phantoms.mouse import mouse_micro_ct, mouse_mri
from thoraxseg.phantoms.phantom import Phantom

__all__ = ["Phantom", "human_chest_ct", "mouse_micro_ct", "mouse_mri"]
