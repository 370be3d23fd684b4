"""Contour one volume from Python, with progress, and read the numbers.

Run: python examples/01_segment_one_volume.py [IMAGE CHECKPOINT]
Without arguments it uses a phantom and the stand-in that comes with ThoraxSeg.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

from thoraxseg import open_checkpoint, read_volume, segment, write_case
from thoraxseg.io import hash_input
from thoraxseg.phantoms import mouse_mri


def show(fraction: float, message: str) -> None:
    """Print progress; raising thoraxseg.Cancelled here would stop the work."""
    print(f"\r{fraction:4.0%} {message:<40}", end="", file=sys.stderr)


if len(sys.argv) == 3:
    path, checkpoint = Path(sys.argv[1]), open_checkpoint(sys.argv[2])
    volume, source = read_volume(path), hash_input(path)
elif len(sys.argv) == 1:
    print("No image given: this is a phantom, a computed mouse.")
    volume, checkpoint, source = mouse_mri(seed=1).volume, open_checkpoint("phantom-threshold"), "phantom"
else:
    sys.exit(__doc__)

result = segment(volume, checkpoint, progress=show)

print(file=sys.stderr)
for structure in result.measurements["structures"]:
    print(f"{structure['name']}: {structure['volume_mm3']:.1f} mm3")
print(f"Tumors: {result.measurements['tumors']['count']}")
for warning in result.warnings:
    print(f"Please check: {warning}")

folder = Path(mkdtemp(prefix="thoraxseg-example-"))
write_case(result, folder, "example", input_sha256=source)
print(f"Files in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
