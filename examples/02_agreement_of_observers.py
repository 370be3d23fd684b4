"""How well observers agree with one another, and a model with what they agree on, from Python.

Run: python examples/02_agreement_of_observers.py
The observers of this example contour the heart of a phantom, each a little otherwise.
"""

import numpy as np

from thoraxseg.metrics import cigen, compare_labels, consensus_labels
from thoraxseg.phantoms import mouse_micro_ct
from thoraxseg.volume import spacing_mm

truth = mouse_micro_ct(seed=1, spacing_mm=0.28).truth
(heart,) = (label for label, structure in truth.structures.items() if structure.key == "heart")
drawn = np.where(truth.labels == heart, 1, 0).astype(np.uint8)

# One voxel to the left, to the head, to the front: what three people make of one heart.
observers = {
    "anna": drawn,
    "ben": np.roll(drawn, 1, axis=2),
    "chris": np.roll(drawn, 1, axis=0),
}
model = np.roll(drawn, 1, axis=1)

print(f"CIgen of {', '.join(observers)}: {cigen([labels == 1 for labels in observers.values()]):.3f}")

consensus, decided = consensus_labels(list(observers.values()), [1])
row = compare_labels(consensus, model, {1: "Heart"}, spacing_mm(truth.ijk_to_ras))[1]
print(f"The model against their majority: Dice {row['dsc']:.3f}, HD95 {row['hd95_mm']:.2f} mm")
print(f"Volumes: {row['volume_reference_mm3']:.1f} mm3 and {row['volume_prediction_mm3']:.1f} mm3")
for key, why in row["undefined"].items():
    print(f"No {key}: {why}")
