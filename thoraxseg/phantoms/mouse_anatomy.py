"""The chest of a mouse in RAS millimeters, as shapes: sizes as measured on two real label maps.

Origin between the lungs, about 1 mm below the middle of the heart.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.phantoms.shapes import Ellipsoid, Shape, Sleeve, Tube, Union, axes_along, mirrored
from thoraxseg.phantoms.thorax import Cage, Diaphragm, LungTrees, Spine, Thorax

TREES = LungTrees(tips=(80, 50), tip_radius_mm=0.085, step_mm=0.7)


def mouse_thorax(rng: np.random.Generator, variety: float = 0.0) -> Thorax:
    """Return the chest of one mouse of standard size, in RAS mm.

    `variety` of 1 makes bodies differ far more than litter mates do, for networks to learn from: build, posture, the
    heart's size, place and axis, the diaphragm, the cord. With 0 nothing more is drawn.
    """

    def vary(mm: float, count: int = 3) -> np.ndarray:
        return rng.uniform(-mm, mm, count)

    def more(amount: float, count: int = 1) -> np.ndarray:
        return vary(amount * variety, count) if variety else np.zeros(count)

    body = np.array(
        [
            (-40, 8.9, 8.0, 0.2),
            (-14, 8.9, 8.0, 0.2),
            (-8, 9.0, 8.1, 0.1),
            (-3, 8.7, 8.1, 0.0),
            (2, 8.1, 7.9, 0.0),
            (6, 7.5, 7.3, 0.3),
            (10, 6.6, 6.4, 0.8),
            (14, 5.6, 5.6, 1.4),
            (40, 5.6, 5.6, 1.4),
        ]
    )
    body[:, 1:3] *= 1 + more(0.08) + np.abs(more(0.2))  # some are fat
    cavity = Sleeve(
        np.array(
            [
                (-40, 7.25, 6.05, 0.3),
                (-8, 7.25, 5.95, 0.3),
                (-5, 7.15, 5.9, 0.3),
                (-2, 6.6, 5.55, 0.3),
                (1, 5.75, 5.2, 0.35),
                (3.5, 4.65, 4.45, 0.6),
                (5.4, 3.3, 3.4, 0.85),
                (6.6, 2.0, 2.2, 1.0),
                (7.1, 0.4, 0.5, 1.05),
            ]
        )
        * np.append(1 + more(0.06), 1 + more(0.08, 3)),
        exponent=2.2 + float(more(0.25)[0]),
    )
    dome = np.array([[0.6, 0.3, 7.3, 6.4, 4.9 + float(vary(0.15, 1)[0])]])
    dome[0, :2] += vary(0.3, 2)
    dome[0] += more(0.8, 5)
    diaphragm = Diaphragm(-6.3 + float(more(1.2)[0]), 0.18 + float(more(0.12)[0]), dome)
    pointing = np.array([-0.58, 0.22, -0.78]) + vary(0.06) + more(0.22, 3)
    axes = axes_along(pointing)
    heart_at = np.array([-1.7, 2.3, 0.85]) + vary(0.15) + more(0.7, 3)
    radii = np.array([3.28, 3.22, 5.35]) * (1 + more(0.1)) * (1 + more(0.1, 3))
    heart = Ellipsoid(heart_at, tuple(radii.tolist()), axes, taper=-0.15 + float(more(0.15)[0]))
    curve = np.array(
        [(-40, -3.6), (-14, -3.9), (-6, -4.2), (0, -4.0), (5, -3.1), (9, -2.0), (14, -0.8), (34, 0.4)]
    )
    curve[:, 1] += more(0.4) + more(0.5, len(curve))
    canal = 0.95 * (1 + float(more(0.12)[0]))
    cord = 0.72 / 0.95 * canal * (1 + float(more(0.12)[0]))
    spine = Spine(curve, 1.3 + float(more(0.15)[0]), (0.95, 0.8), 1.55, canal, cord, 1.1)
    levels = spine.levels()
    thoracic = levels[levels[:, 0] < 6.9][:13]
    ribs, cartilage = Cage(cavity, thoracic, 0.42, 0.24, 2.4, 7).ribs()
    septum = -1.0 + float(more(0.5)[0])

    apex = axes[2]
    left_chamber = Ellipsoid(heart_at + 0.9 * apex - 0.55 * axes[0], (1.15, 1.15, 2.6), axes, taper=-0.2)
    right_chamber = Ellipsoid(heart_at + 0.1 * apex + 1.75 * axes[0], (0.75, 1.7, 2.7), axes)
    atria = Ellipsoid(heart_at - 3.4 * apex, (2.0, 1.9, 1.1), axes)
    arch = Tube.along(
        [(0, 1.5, 4.2), (-0.2, 0.9, 5.4), (-0.7, -0.4, 5.5), (-0.95, -1.5, 4.6), (-0.9, -2.3, 2.5)], 0.55
    )
    aorta = Tube.along([(-0.9, -2.3, 2.5), (-0.75, -2.75, -2), (-0.6, -2.8, -14), (-0.5, -2.6, -40)], 0.5)
    caval = Tube.along([(0.9, -1.2, -40), (1.0, -0.6, -4), (0.6, 0.6, 1.2)], 0.55)
    cranial = [
        Tube.along(mirrored([(1.3, 1.6, 2.8), (1.5, 1.5, 6), (1.9, 1.6, 12), (2.2, 1.6, 34)], s), 0.5)
        for s in (1, -1)
    ]
    esophagus = Tube.along(
        [(-0.3, 0.4, 34), (-0.3, -0.4, 14), (-0.2, -1.2, 5), (-0.15, -1.6, 0), (-0.4, -1.4, -7)], 0.5
    )
    hila = np.array([(1.35, -0.55, 1.5), (-1.75, -0.75, 1.4)])
    airway = [(0, 1.2, 34), (0, 1.2, 14), (0, 0.9, 7), (0.05, -0.2, 3.1)]
    trachea = [Tube.along(airway, r) for r in (0.78, 0.58)]
    bronchi = [Union([Tube.along([(0.05, -0.2, 3.1), h], [r, 0.8 * r]) for h in hila]) for r in (0.58, 0.42)]
    mediastinum = [
        Ellipsoid((-0.1, 1.3, 5.0), (1.9, 3.0, 2.5)),
        Ellipsoid((-0.85, -0.9, -1.0), (0.75, 4.4, 8.0)),
        Ellipsoid((-1.05, 4.5, 0.0), (0.55, 2.6, 6.0)),
    ]
    beside = [*mediastinum, spine.column(0.3), aorta, caval, arch, esophagus, trachea[0], bronchi[0]]

    limbs, limb_fat, limb_skin, plates, arm_bones = [], [], [], [], []
    for s in (1, -1):
        limb_axes = axes_along((0.25 * s, 0.75, -0.35))
        at = mirrored([(6.0, 2.4, 8.2)], s)[0]
        limb_skin.append(Ellipsoid(at, (2.9, 3.2, 5.4), limb_axes))
        limb_fat.append(Ellipsoid(at, (2.65, 2.95, 5.15), limb_axes))
        limbs.append(Ellipsoid(at, (2.2, 2.5, 4.6), limb_axes))
        arm_bones.append(Tube.along(mirrored([(5.6, -0.3, 8.6), (7.0, 4.0, 6.6)], s), [0.7, 0.55]))
        arm_bones.append(Tube.along(mirrored([(7.0, 4.0, 6.6), (6.4, 4.2, 11.5)], s), 0.4))
        arm_bones.append(Tube.along(mirrored([(5.6, -0.3, 8.6), (1.0, 4.6, 5.9)], s), 0.25))  # clavicle
        plates.append(
            Ellipsoid(mirrored([(5.0, -3.0, 5.2)], s)[0], (2.3, 3.9, 0.3), axes_along((0.86 * s, -0.5, 0.22)))
        )
    sternum = []
    for z in np.arange(-3.6, 5.2, 1.35):
        _, ry, yc = cavity.section(np.array(z))
        sternum.append(Ellipsoid((0, float(yc + ry) + 0.45, z), (0.6, 0.4, 0.62)))

    skin, fat = Sleeve(body, 2.15), Sleeve(body, 2.15, inset=0.3)
    muscle_profile = body - [0, 0.85, 0.65, 0.15]
    axillae = [Ellipsoid(mirrored([(7.35, 1.0, 0.5)], s)[0], (1.3, 2.6, 6.0)) for s in (1, -1)]
    shell = Union([skin, *limb_skin])
    wall = (
        (shell, "skin"),
        (Union([fat, *limb_fat]), "fat"),
        (Union([Sleeve(muscle_profile, 2.15), *limbs]), "muscle"),
        (Union(axillae), "fat"),
        (Sleeve(cavity.profile + np.array([0, 0.85, 0.75, 0]), 2.2), "muscle"),
        *_parted_muscles(),
        (Ellipsoid((0, -6.5, -1.0), (0.4, 0.7, 9)), "fat"),
    )
    big = Ellipsoid((0.5, 0.5, -8.0), (30, 30, 8.5))
    abdomen = (
        (Ellipsoid((0, 0, -20), (30, 30, 30)), "fat"),
        (big, "liver"),
        (Ellipsoid((-3.2, -0.6, -8.7), (2.9, 2.6, 3.4)), "stomach"),
        (Ellipsoid((-3.6, 1.0, -8.9), (1.7, 0.8, 2.0)), "gas"),
        (Ellipsoid((1.9, 3.0, -6.6), (1.3, 1.6, 1.9)), "gallbladder"),
        (Tube.along([(0.9, -1.2, -40), (1.0, -0.6, -4)], 0.6), "vessel"),
        (Union([Tube.along([(1.0, -0.6, -6.5), p], [0.3, 0.12]) for p in _HEPATIC]), "vessel"),
    )
    bones = (
        (Union(plates), "bone"),
        (Union(arm_bones), "bone"),
        (Union([Tube(t.starts, t.ends, 0.5 * t.radii, 0.5 * t.end_radii) for t in arm_bones[:2]]), "marrow"),
        (spine.column(0.15), "mediastinum"),
        (Union([*_paired_muscles(spine)]), "muscle"),
        (cartilage, "cartilage"),
        (ribs, "bone"),
        (Union(sternum), "bone"),
        (Union([Ellipsoid(s.center, 0.6 * np.asarray(s.radii)) for s in sternum]), "marrow"),
        *spine.bones(),
    )
    organs = (
        (spine.canal, "canal"),
        (spine.cord, "cord"),
        (Union([aorta, arch, caval, *cranial]), "vessel"),
        (esophagus, "esophagus"),
        (Union([trachea[0], bronchi[0]]), "muscle"),
        (Union([trachea[1], bronchi[1]]), "airway"),
        (heart, "heart"),
        (Union([left_chamber, right_chamber, atria]), "blood"),
    )
    return Thorax(
        cavity=cavity,
        diaphragm=diaphragm,
        heart=heart,
        cord=spine.cord,
        beside_lungs=beside,
        gap_mm=0.15 + abs(float(more(0.15)[0])),
        septum_x=septum,
        wall=wall,
        abdomen=abdomen,
        bones=bones,
        organs=organs,
        hila=hila,
    )


_HEPATIC = ((4.5, 0.5, -5.6), (3.0, 3.5, -5.0), (-2.5, 3.0, -5.5), (3.5, -2.5, -6.8), (5.0, 2.0, -8.5))


def _parted_muscles() -> list[tuple[Shape, str]]:
    """Return muscles of the shoulder and chest, each in a thin layer of fat that shows its border."""
    layers = []
    for center, radii, direction in (
        ((3.7, 5.2, 5.2), (2.9, 4.0, 1.0), (0.5, 0.8, 0.35)),
        ((6.1, 1.4, 4.6), (2.6, 3.4, 1.1), (0.95, 0.2, 0.2)),
        ((2.6, -5.2, 3.0), (1.9, 7.5, 1.15), (0.45, -0.9, 0.12)),
        ((5.4, -3.9, 5.4), (2.2, 4.2, 1.0), (0.8, -0.6, 0.2)),
        ((6.6, -2.8, -3.0), (2.4, 5.5, 0.6), (0.9, -0.45, 0.0)),
    ):
        pair = [(mirrored([center], s)[0], axes_along(mirrored([direction], s)[0])) for s in (1, -1)]
        outer = [Ellipsoid(at, np.asarray(radii) + 0.1, axes) for at, axes in pair]
        layers += [
            (Union(outer), "fascia"),
            (Union([Ellipsoid(at, radii, axes) for at, axes in pair]), "muscle"),
        ]
    return layers


def _paired_muscles(spine: Spine) -> list[Shape]:
    """Return the muscles that lie on both sides behind the vertebral bodies."""
    return [Tube.along(spine.line(0.7 * spine.canal_mm, 1.6 * side), 0.9) for side in (1, -1)]
