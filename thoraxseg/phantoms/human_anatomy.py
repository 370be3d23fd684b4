"""The chest of an adult, arms raised, in deep inspiration, in RAS millimeters, as shapes.

Origin in the middle of the chest, about at the seventh thoracic vertebra.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.phantoms.shapes import Ellipsoid, Implicit, Shape, Sleeve, Tube, Union, axes_along, mirrored
from thoraxseg.phantoms.thorax import Cage, Diaphragm, LungTrees, Spine, Thorax

TREES = LungTrees(tips=(150, 120), tip_radius_mm=0.95, step_mm=10.0)


def table() -> Shape:
    """Return the table on which the person lies."""

    def shell(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(y + 128 - 4e-4 * x * x) - 3, np.abs(x) - 210) + 0 * z

    return Implicit(shell, (np.array([-210.0, -135.0, -2000.0]), np.array([210.0, -100.0, 2000.0])))


def human_thorax(rng: np.random.Generator, variety: float = 0.0) -> Thorax:
    """Return the chest of one adult of standard size, in RAS mm.

    `variety` of 1 makes build, breath and heart differ far more, for networks to learn from; with 0 nothing more is
    drawn.
    """

    def vary(mm: float, count: int = 3) -> np.ndarray:
        return rng.uniform(-mm, mm, count)

    def more(amount: float, count: int = 1) -> np.ndarray:
        return vary(amount * variety, count) if variety else np.zeros(count)

    body = np.array(
        [
            (-600, 158, 112, 2),
            (-170, 160, 114, 2),
            (-90, 166, 116, 0),
            (0, 170, 116, -2),
            (60, 172, 112, -4),
            (110, 182, 98, -12),
            (140, 176, 86, -16),
            (185, 100, 68, -14),
            (215, 70, 62, -10),
            (600, 70, 62, -10),
        ],
        dtype=float,
    )
    body[:, 1:3] *= 1 + more(0.04) + np.abs(more(0.2))  # some are stout
    cavity = Sleeve(
        np.array(
            [
                (-600, 136, 92, 6),
                (-170, 138, 93, 5),
                (-100, 140, 95, 4),
                (-40, 138, 95, 2),
                (20, 130, 89, -1),
                (65, 114, 77, -6),
                (100, 88, 60, -13),
                (122, 56, 40, -20),
                (133, 26, 20, -24),
                (137, 6, 6, -25),
            ]
        )
        * np.append(1 + more(0.08), 1 + more(0.1, 3)),
        exponent=2.3 + float(more(0.3)[0]),
    )
    domes = np.array([(66.0, 8, 80, 100, 50), (-66.0, 6, 78, 98, 42)])
    domes[:, 4] += vary(4, 2)
    domes[:, :2] += vary(3, 4).reshape(2, 2)
    domes += more(12, 10).reshape(2, 5)
    diaphragm = Diaphragm(-102.0 + float(more(35)[0]), 0.34 + float(more(0.15)[0]), domes)
    axes = axes_along(np.array([-0.68, 0.40, -0.62]) + vary(0.05) + more(0.2, 3))
    heart_at = np.array([-16.0, 32.0, -26.0]) + vary(3) + more(12, 3)
    radii = np.array([50, 47, 66]) * (1 + more(0.12)) * (1 + more(0.1, 3))
    heart = Ellipsoid(heart_at, tuple(radii.tolist()), axes, taper=-0.2 + float(more(0.15)[0]))
    curve = np.array(
        [
            (-400, -50),
            (-170, -54),
            (-100, -60),
            (-20, -66),
            (50, -63),
            (110, -52),
            (160, -38),
            (220, -28),
            (400, -28),
        ],
        dtype=float,
    )
    curve[:, 1] += more(6) + more(4, len(curve))
    spine = Spine(curve, 24.0, (17.5, 14.5), 24.0, 10.5, 5.8, 20.0)
    levels = spine.levels()
    thoracic = levels[levels[:, 0] < 140][:12]
    ribs, cartilage = Cage(cavity, thoracic, 7.5, 5.0, 75.0, 7).ribs()
    ribs = (
        (ribs, "bone"),
        (Union([Tube(p.start[None], p.end[None], *_half(p)) for p in ribs.pieces()]), "marrow"),
    )

    apex = axes[2]
    chambers = [
        Ellipsoid(heart_at + 10 * apex - 16 * axes[0], (19, 19, 36), axes, taper=-0.2),
        Ellipsoid(heart_at + 4 * apex + 26 * axes[0], (15, 27, 36), axes),
        Ellipsoid(heart_at - 42 * apex, (34, 30, 15), axes),
    ]
    arch = Tube.along(
        [(6, 32, 2), (8, 30, 42), (0, 14, 64), (-14, -12, 68), (-25, -34, 54), (-27, -44, 20)], 13.0
    )
    aorta = Tube.along([(-27, -44, 20), (-26, -44, -60), (-14, -32, -170), (-8, -25, -600)], 11.5)
    pulmonary = Tube.along([(-12, 40, 8), (-16, 16, 30), (-2, 2, 26), (34, -6, 22)], [14, 13, 11, 9])
    pulmonary_left = Tube.along([(-16, 16, 30), (-36, -6, 30)], [12, 9])
    cranial = Tube.along([(24, 16, 0), (24, 14, 60), (26, 12, 100)], 9.0)
    caudal = Tube.along([(26, 2, -170), (26, 6, -90), (24, 14, -40)], 11.0)
    branches = [
        Tube.along([(2, 16, 66), (14, 4, 110), (22, 0, 170)], 6.5),
        Tube.along([(-8, 2, 68), (-18, -6, 110), (-22, -2, 170)], 5.5),
        Tube.along([(-16, -12, 66), (-26, -20, 115), (-70, -5, 140)], 5.0),
    ]
    esophagus = Tube.along([(-2, -24, 200), (-4, -40, 60), (-6, -38, 0), (-16, -22, -100)], 8.0)
    carina = (2, -18, 46)
    hila = np.array([(40.0, -14, 20), (-42.0, -16, 24)])
    airway = [(0, 6, 200), (0, -4, 120), (2, -16, 60), carina]
    trachea = [Tube.along(airway, r) for r in (10.5, 8.5)]
    bronchi = [Union([Tube.along([carina, h], [r, 0.8 * r]) for h in hila]) for r in (9.0, 6.8)]
    mediastinum = [
        Ellipsoid((0, 14, 50), (33, 50, 62)),
        Ellipsoid((2, -6, 105), (24, 36, 45)),
        Ellipsoid((-4, -20, -30), (15, 62, 120)),
        Ellipsoid((-6, 62, -10), (13, 36, 85)),
        Ellipsoid((12, 4, 20), (34, 22, 30)),
        Ellipsoid((-16, 2, 26), (32, 20, 26)),
    ]
    beside = [*mediastinum, spine.column(4.0), aorta, arch, cranial, caudal, esophagus, bronchi[0]]

    plates, arms, muscles = [], [], []
    for s in (1, -1):
        plates.append(
            Ellipsoid(mirrored([(92, -82, 72)], s)[0], (44, 66, 4), axes_along((0.62 * s, -0.76, 0.16)))
        )
        plates.append(Tube.along(mirrored([(92, -96, 104), (128, -58, 126)], s), 6.0))
        arms.append(Ellipsoid(mirrored([(138, -30, 140)], s)[0], (23, 23, 30)))
        plates.append(Tube.along(mirrored([(14, 44, 108), (62, 34, 122), (122, -34, 142)], s), 6.5))
        muscles += [
            (((104, -92, 70), (42, 78, 11), (0.62, -0.76, 0.16)), s),
            (((70, 86, 66), (62, 62, 11), (0.45, 0.86, 0.3)), s),
            (((28, -104, -20), (24, 250, 14), (0.1, -1, 0.0)), s),
            (((146, -40, 0), (60, 110, 9), (0.94, -0.34, 0.05)), s),
            (((88, -66, 74), (38, 62, 9), (0.62, -0.76, 0.16)), s),
        ]
    parted = [
        Ellipsoid(mirrored([at], s)[0], np.asarray(radii, dtype=float), axes_along(mirrored([way], s)[0]))
        for (at, radii, way), s in muscles
    ]
    sternum = []
    for z in np.arange(-38, 108, 15.0):
        _, ry, yc = cavity.section(np.array(z))
        wide = 24.0 if z > 70 else 16.0
        sternum.append(Ellipsoid((0, min(float(yc + ry) + 7.5, 100), z), (wide, 6.5, 10.5)))

    wall = (
        (Sleeve(body, 2.5), "skin"),
        (Sleeve(body, 2.5, inset=2.5), "fat"),
        (Sleeve(body - [0, 13, 8, 1], 2.3), "muscle"),
        (Sleeve(cavity.profile + np.array([0, 15, 13, 0]), 2.3), "fascia"),
        (Sleeve(cavity.profile + np.array([0, 13, 11, 0]), 2.3), "muscle"),
        (Union([Ellipsoid(e.center, np.asarray(e.radii) + 3.0, e.axes) for e in parted]), "fat"),
        (Union(parted), "muscle"),
    )
    abdomen = (
        (Ellipsoid((0, 0, -300), (400, 400, 420)), "fat"),
        (Ellipsoid((50, 14, -122), (104, 90, 88)), "liver"),
        (Ellipsoid((-86, -28, -122), (36, 42, 56)), "spleen"),
        (Ellipsoid((-62, 36, -110), (46, 40, 50)), "stomach"),
        (Ellipsoid((-62, 56, -100), (34, 18, 32)), "gas"),
        (Tube.along([(26, 2, -200), (26, 6, -90)], 12.0), "vessel"),
    )
    bones = (
        (spine.column(2.0), "mediastinum"),
        (Union(plates), "bone"),
        (Union(arms), "bone"),
        (Union([Ellipsoid(a.center, 0.85 * np.asarray(a.radii)) for a in arms]), "marrow"),
        (cartilage, "cartilage"),
        *ribs,
        (Union(sternum), "bone"),
        (Union([Ellipsoid(s.center, 0.7 * np.asarray(s.radii)) for s in sternum]), "marrow"),
        *spine.bones(),
    )
    organs = (
        (spine.canal, "canal"),
        (spine.cord, "cord"),
        (Union([aorta, arch, pulmonary, pulmonary_left, cranial, caudal, *branches]), "vessel"),
        (esophagus, "esophagus"),
        (Union([trachea[0], bronchi[0]]), "muscle"),
        (Union([trachea[1], bronchi[1]]), "airway"),
        (heart, "heart"),
        (Union(chambers), "blood"),
    )
    return Thorax(
        cavity=cavity,
        diaphragm=diaphragm,
        heart=heart,
        cord=spine.cord,
        beside_lungs=beside,
        gap_mm=2.0,
        septum_x=-3.0 + float(more(6)[0]),
        wall=wall,
        abdomen=abdomen,
        bones=bones,
        organs=organs,
        hila=hila,
    )


def _half(segment) -> tuple[np.ndarray, np.ndarray]:
    """Return the radii of the marrow in a rib's segment."""
    return np.array([0.55 * segment.radius]), np.array([0.55 * segment.end_radius])
