"""What to correct next: doubt, odd volumes and places come first, copies and further scans of an animal later."""

from __future__ import annotations

import csv
import json
from math import log

import numpy as np
import pytest

from thoraxseg.errors import InputError, OutputError
from thoraxseg.files import sha256_file
from thoraxseg.io import write_scalar_nrrd, write_segmentation
from thoraxseg.measure import structure_doubt
from thoraxseg.progress import Cancelled
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.study import Who, create_study, log_event, name_contours, name_result
from thoraxseg.training.ranked_results import find_results, read_result
from thoraxseg.training.ranking import rank, rank_cases, write_ranking
from thoraxseg.training.ranking_score import WEIGHTS
from thoraxseg.volume import geometry_from_spacing

GRID = geometry_from_spacing((0.5, 0.5, 0.5), "RAS")
SHAPE = (30, 24, 40)
BOXES = {  # k, j, i; 300, 180 and 234 mm3
    "right_lung": (slice(5, 25), slice(6, 18), slice(26, 36)),
    "left_lung": (slice(5, 25), slice(6, 18), slice(4, 10)),
    "heart": (slice(9, 21), slice(6, 18), slice(12, 25)),
}
LABELS = {1: "heart", 3: "right_lung", 4: "left_lung"}
ENTROPY = {"key": "entropy_nat", "unit": "nat", "range": [0.0, log(4)]}
FOLDS = {"key": "fold_spread", "unit": "1", "range": [0.0, 0.5]}


def made(
    folder,
    case,
    doubt=0.1,
    boxes=None,
    kind=ENTROPY,
    sha=None,
    species="mouse",
    finished="2026-03-01",
    checkpoint="m",
):
    """Write a result as `segment` does: boxes for organs, the same doubt everywhere or by organ; return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(SHAPE, np.uint8)
    for label, key in LABELS.items():
        if (box := {**BOXES, **(boxes or {})}[key]) is not None:
            labels[box] = label
    structures = {label: STRUCTURES[key] for label, key in LABELS.items()}
    segmentation = Segmentation(labels, GRID, structures, case)
    write_segmentation(folder / f"{case}.seg.nrrd", segmentation)
    found = {}
    if kind is not None:
        by_key = doubt if isinstance(doubt, dict) else {"": doubt}
        volume = np.full(SHAPE, by_key.get("", 0.1), np.float32)
        for key, value in by_key.items():
            if key:
                k, j, i = BOXES[key]
                volume[k.start - 1 : k.stop + 1, j.start - 1 : j.stop + 1, i.start - 1 : i.stop + 1] = value
        write_scalar_nrrd(folder / f"{case}_uncertainty.nrrd", volume, GRID, {})
        found = {one.key: one.mean for one in structure_doubt(segmentation, volume)}
    kind_key = kind["key"] if kind else ""
    record = {
        "schema": 1,
        "case": case,
        "input": {"name": f"{case}.nrrd", "sha256": sha or case},
        "measurements": {
            "structures": [{"key": key, f"mean_{kind_key}": found.get(key)} for key in LABELS.values()]
        },
        "uncertainty": kind,
        "provenance": {"checkpoint": {"name": checkpoint, "species": species}, "finished_utc": finished},
        "outputs_sha256": {f"{case}.seg.nrrd": sha256_file(folder / f"{case}.seg.nrrd")},
    }
    path = folder / f"{case}.json"
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def a_cohort(results):
    """Seven mice, each a little different from the others."""
    for n, name in enumerate("abcdefg"):
        k, j, i = BOXES["heart"]
        made(results, f"mouse-{name}", 0.10 + 0.005 * n, {"heart": (k, slice(j.start, j.stop - n % 2), i)})
    return results


def order(ranking):
    return [one.case for one in ranking.ranked]


def first(ranking):
    return ranking.ranked[0]


def test_the_scan_that_the_model_doubts_comes_first_and_the_reason_says_of_what(a_cohort):
    made(a_cohort, "doubted", {"": 0.1, "left_lung": 0.6})
    one = first(rank([a_cohort]))
    assert one.case == "doubted"
    assert "Mean entropy of left lung is 0.6 nat, usual is 0.1" in one.reason
    assert one.parts["fold_disagreement"] is None
    assert one.parts["entropy"] > 0.6


def test_the_score_is_that_of_the_formula(results):
    for n, doubt in enumerate((0.1, 0.2, 0.3, 0.4, 0.9)):
        made(results, f"m{n}", doubt)
    found = {one.case: one for one in rank([results], animals="case").ranked}
    # Median 0.3, median absolute deviation 0.1, so z = (x - 0.3) / 0.14826 for every organ.
    for name, doubt in (("m0", 0.1), ("m2", 0.3), ("m4", 0.9)):
        z = (doubt - 0.3) / 0.14826
        assert found[name].parts["entropy"] == pytest.approx((1 + z / (1 + abs(z))) / 2, abs=1e-4)
        assert found[name].score == pytest.approx(WEIGHTS["doubt"] * found[name].parts["entropy"], abs=1e-5)
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_folds_that_disagree_are_a_part_of_their_own_and_no_entropy(results):
    for n, spread in enumerate((0.02, 0.03, 0.04, 0.3)):
        made(results, f"fold-{n}x", spread, kind=FOLDS)
    one = first(rank([results], animals="case"))
    assert one.case == "fold-3x"
    assert one.parts["entropy"] is None
    assert "disagreement of the folds of heart is 0.3, usual" in one.reason


def test_a_volume_far_from_the_cohort_comes_before_the_ordinary_ones(a_cohort):
    i = BOXES["heart"][2]
    made(a_cohort, "swollen", 0.1, {"heart": (slice(5, 25), slice(2, 22), i)})
    one = first(rank([a_cohort]))
    assert one.case == "swollen"
    assert one.parts["volume"] > 0.5
    assert "heart is unusually large: 650 mm3, usual are 2" in one.reason.lower()
    assert 0 < one.parts["physiology"] < 0.5  # 650 is 1.2 times twice what was measured in mice


def test_what_is_no_volume_of_a_mouse_is_said_of_mice_alone(results):
    small = {"heart": (slice(9, 15), slice(6, 12), slice(16, 20))}
    for n in range(3):
        made(results / "mice", f"m{n}x", boxes=small)
        made(results / "people", f"p{n}x", boxes=small, species="human")
    found = {one.case: one for one in rank([results], animals="case").ranked}
    assert found["m0x"].parts["physiology"] == pytest.approx(
        log(111.5 / 18) / log(2) / (1 + log(111.5 / 18) / log(2)), abs=1e-4
    )
    assert "heart of 18 mm3 is not of a mouse (112 to 528 mm3 are plausible)" in found["m0x"].reason.lower()
    assert found["p0x"].parts["physiology"] is None
    assert found["m0x"].parts["volume"] == 0  # all are alike


def test_swapped_sides_and_missing_organs_are_found(a_cohort):
    made(a_cohort, "swapped", boxes={"right_lung": BOXES["left_lung"], "left_lung": BOXES["right_lung"]})
    made(a_cohort, "no-heart", boxes={"heart": None})
    ranking = rank([a_cohort])
    assert {*order(ranking)[:2]} == {"swapped", "no-heart"}
    found = {one.case: one for one in ranking.ranked}
    assert found["no-heart"].parts["entropy"] == 1
    assert found["no-heart"].parts["missing"] == pytest.approx(1 / 3, abs=1e-6)
    assert "Not found: heart" in found["no-heart"].reason
    assert found["swapped"].parts["anatomy"] >= 0.5
    assert any("swapped" in warning for warning in found["swapped"].warnings)


def test_the_first_ones_are_not_copies_of_one_another(a_cohort):
    for n in range(3):
        made(a_cohort, f"same-{'xyz'[n]}", 0.3)
    made(a_cohort, "other", 0.1, {"left_lung": (slice(12, 18), slice(6, 18), slice(4, 10))})
    names = order(rank([a_cohort]))
    assert names[0].startswith("same")
    assert not names[1].startswith("same")
    assert "other" in names[:3]


def test_no_animal_has_a_second_scan_before_each_had_one(results):
    table = results / "animals.csv"
    lines = ["case,animal"]
    for animal in "PQR":
        for day in range(3):
            made(results, f"{animal}-{day}", 0.9 if animal == "P" else 0.1 + 0.01 * day)
            lines.append(f"{animal}-{day},{animal}")
    table.write_text("\n".join(lines))
    ranking = rank([results], animals=table)
    animals = [one.animal for one in ranking.ranked]
    assert [{*animals[n : n + 3]} for n in (0, 3, 6)] == [{"P", "Q", "R"}] * 3
    assert animals[0] == "P"
    assert "Animal P has 1 scan(s) before it" in "".join(one.reason for one in ranking.ranked).replace(
        "animal", "Animal"
    )


def test_names_that_look_like_scans_of_one_animal_are_not_ranked_as_several(results):
    for day in (1, 2):
        made(results, f"M7_day{day}")
    with pytest.raises(InputError, match="several scans of one animal"):
        rank([results])
    assert len(rank([results], animals="(.+)_day").ranked) == 2


def test_results_of_nobody_knows_which_animals_are_said_to_be_so_in_words_about_ranking(a_cohort):
    (note,) = rank([a_cohort]).notes
    assert "counts as an animal of its own" in note and "held-out" not in note
    assert rank([a_cohort], animals="case").notes != (note,)


def test_the_order_is_the_same_every_time_and_whatever_the_order_of_the_input(a_cohort):
    made(a_cohort, "twin-x", 0.3)
    made(a_cohort, "twin-y", 0.3)
    one = rank([a_cohort])
    assert rank([a_cohort]).to_record() == one.to_record()
    found = [read_result(path) for path in find_results([a_cohort])]
    assert [r.case for r in rank_cases(found)] == [r.case for r in rank_cases(found[::-1])] == order(one)
    assert order(one).index("twin-x") < order(one).index("twin-y")


def damage(path, how):
    stem = path.name.removesuffix(".json")
    if how == "no record":
        path.unlink()
    elif how == "cut record":
        path.write_text(path.read_text()[:100])
    elif how == "no contours":
        path.with_name(f"{stem}.seg.nrrd").unlink()
    elif how == "cut contours":
        contours = path.with_name(f"{stem}.seg.nrrd")
        contours.write_bytes(contours.read_bytes()[:-30])
    elif how == "doubt is text":
        path.write_text(
            path.read_text()
            .replace('"mean_entropy_nat": 0.', '"mean_entropy_nat": "0."#', 1)
            .replace("#", ', "x": 0.', 1)
        )
    else:
        path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))


@pytest.mark.parametrize(
    "how", ["no record", "cut record", "no contours", "cut contours", "doubt is text", "another schema"]
)
def test_a_broken_result_is_named_and_the_others_are_ranked(a_cohort, how):
    path = made(a_cohort / "sub", "broken")
    damage(path, how)
    ranking = rank([a_cohort])
    ((where, reason),) = ranking.broken
    assert where == str(path)
    assert "broken" in reason
    assert len(ranking.ranked) == 7


def test_other_files_in_the_folders_are_no_results(a_cohort):
    (a_cohort / "dataset.json").write_text('{"labels": {}}')
    (a_cohort / "notes.txt").write_text("mice")
    scratch = a_cohort / ".thoraxseg-partial-0-1-x"
    made(scratch, "half")
    assert rank([a_cohort]).broken == ()
    assert len(find_results([a_cohort])) == 7


def test_contours_that_were_corrected_since_are_judged_as_they_are_now(a_cohort):
    path = made(a_cohort, "touched", {"": 0.1, "heart": 0.8})
    before = read_result(path)
    labels = np.zeros(SHAPE, np.uint8)
    for label, key in LABELS.items():
        if key != "heart":
            labels[BOXES[key]] = label
    write_segmentation(
        a_cohort / "touched.seg.nrrd",
        Segmentation(labels, GRID, {label: STRUCTURES[key] for label, key in LABELS.items()}),
    )
    after = read_result(path)
    assert (before.is_edited, after.is_edited) == (False, True)
    heart = {one.key: one for one in after.structures}["heart"]
    assert (heart.volume_mm3, heart.doubt) == (None, None)
    (a_cohort / "touched_uncertainty.nrrd").unlink()
    ((_, reason),) = rank([a_cohort]).broken
    assert "touched_uncertainty.nrrd" in reason


def test_of_two_results_of_one_image_the_later_counts(a_cohort):
    made(a_cohort / "first", "again", 0.9, sha="same", finished="2026-03-02")
    made(a_cohort / "second", "again", 0.1, sha="same", finished="2026-03-01")
    ranking = rank([a_cohort])
    assert len(ranking.ranked) == 8
    ((case, reason),) = ranking.left_out
    assert case.endswith("again.json") and "second" in case
    assert "another result of this scan" in reason


def test_without_a_map_of_doubt_the_rest_decides(a_cohort):
    made(a_cohort, "no-map", kind=None)
    one = next(one for one in rank([a_cohort]).ranked if one.case == "no-map")
    assert one.parts["entropy"] is one.parts["fold_disagreement"] is None
    assert one.score == pytest.approx(0.2)
    assert "no map of doubt" in one.reason


def test_results_of_another_checkpoint_are_compared_among_their_own_kind(a_cohort):
    for n in range(3):
        made(a_cohort, f"wild-{'xyz'[n]}", 0.9 + n / 100, checkpoint="another")
    ranking = rank([a_cohort])
    assert any("several checkpoints" in note for note in ranking.notes)
    found = {one.case: one for one in ranking.ranked}
    assert found["wild-y"].parts["entropy"] == pytest.approx(0.5)


def test_accepted_and_labeled_scans_are_left_out_but_count_for_what_is_new(a_cohort, tmp_path):
    made(a_cohort, "twin-x", 0.5, sha="1" * 64)
    made(a_cohort, "twin-y", 0.5)
    study = create_study(tmp_path / "mice.sqlite")
    who = Who("T", "d0", "Ann")
    log_event(study, who, "accept")
    (tmp_path / "image.nrrd").write_bytes(b"i")
    (tmp_path / "mask.seg.nrrd").write_bytes(b"m")
    alone = {one.case: one for one in rank([a_cohort]).ranked}
    name_contours(study, who, tmp_path / "image.nrrd", tmp_path / "mask.seg.nrrd", {1: "heart"}, "1" * 64)
    table = tmp_path / "done.csv"
    table.write_text("case,label\nmouse-c,x.nii\n")
    ranking = rank([a_cohort], study, done=[table])
    assert {case for case, _ in ranking.left_out} == {"twin-x", "mouse-c"}
    found = {one.case: one for one in ranking.ranked}
    assert not {"twin-x", "mouse-c"} & {*found}
    assert found["twin-y"].score == alone["twin-y"].score  # the cohort is the same
    assert found["twin-y"].novelty == 0
    assert order(ranking)[0] != "twin-y"


def test_a_study_that_knows_the_results_gives_them_with_their_animals(a_cohort, tmp_path):
    study = create_study(tmp_path / "mice.sqlite")
    for animal, day in (("M1", "a"), ("M1", "b"), ("M2", "c"), ("M3", "d")):
        who = Who(animal, day, "batch")
        log_event(study, who, "run", seconds=9)
        name_result(study, who, a_cohort / f"mouse-{day}.json")
    ranking = rank([], study)
    assert [one.animal for one in ranking.ranked[:3]] != ["M1"] * 2
    assert {one.animal for one in ranking.ranked[:3]} == {"M1", "M2", "M3"}
    assert len(ranking.ranked) == 4
    (a_cohort / "mouse-d.json").unlink()
    ranking = rank([], study)
    assert (len(ranking.ranked), len(ranking.broken)) == (3, 1)
    log_event(study, Who("M2", "c", "Ann"), "accept")
    assert "mouse-c" not in order(rank([a_cohort], study))


def test_when_all_is_done_nothing_is_left(a_cohort, tmp_path):
    table = tmp_path / "done.csv"
    table.write_text("case\n" + "\n".join(f"mouse-{name}" for name in "abcdefg"))
    ranking = rank([a_cohort], done=[table])
    assert (ranking.ranked, len(ranking.left_out)) == ((), 7)


def test_gray_values_tell_scans_apart_that_look_alike_otherwise(results, tmp_path):
    images = {}
    for n, name in enumerate("abcdef"):
        made(results, f"mouse-{name}", 0.1)
        images[f"mouse-{name}"] = tmp_path / f"{name}.nrrd"
        gray = np.random.default_rng(n).normal(5000 if name == "e" else 100, 10, SHAPE).astype(np.int16)
        write_scalar_nrrd(images[f"mouse-{name}"], gray, GRID, {})
    assert order(rank([results]))[:2] == ["mouse-a", "mouse-b"]
    assert order(rank([results], images=images))[:2] == ["mouse-a", "mouse-e"]


def test_nothing_that_can_be_read_is_an_error_that_says_why(results):
    with pytest.raises(InputError, match="expected a folder with results"):
        rank([results])
    results.mkdir()
    with pytest.raises(InputError, match="got none that can be read"):
        rank([results])
    damage(made(results, "broken"), "cut record")
    with pytest.raises(InputError, match=r"broken.json: expected the record"):
        rank([results])


def test_reading_can_be_cancelled(a_cohort):
    def stop(fraction, message):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        rank([a_cohort], progress=stop)


def test_table_and_record_are_written_together_and_over_nothing(a_cohort, tmp_path):
    made(a_cohort, "=1+1")
    ranking = rank([a_cohort])
    write_ranking(tmp_path / "next", ranking)
    with (tmp_path / "next" / "ranking.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"].lstrip("'") for row in rows] == order(ranking)
    assert float(rows[0]["score"]) == ranking.ranked[0].score
    assert any(row["case"] == "'=1+1" for row in rows)
    told = json.loads((tmp_path / "next" / "ranking.json").read_text())
    assert "score = 0.4 doubt" in told["formula"]
    assert [one["case"] for one in told["ranked"]] == order(ranking)
    with pytest.raises(OutputError, match="nothing is overwritten"):
        write_ranking(tmp_path / "next", ranking)


def test_a_result_of_the_whole_road_can_be_ranked(tmp_path, one_thread):
    from Testing.painted import painted_checkpoint, painted_thorax
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.options import SegmentOptions
    from thoraxseg.pipeline import segment, write_case

    phantom = painted_thorax(seed=1, spacing_mm=1.0)
    checkpoint = open_checkpoint(painted_checkpoint(tmp_path / "model"))
    done = segment(phantom.volume, checkpoint, SegmentOptions(device="cpu", mirroring="none"))
    write_case(done, tmp_path / "results", "M1", "0" * 64)
    found = read_result(tmp_path / "results" / "M1.json")
    assert not found.is_edited
    measured = {one["key"]: one for one in done.measurements["structures"]}
    for one in found.structures:
        assert one.volume_mm3 == pytest.approx(measured[one.key]["volume_mm3"])
        assert one.doubt * found.measure.maximum == pytest.approx(measured[one.key]["mean_entropy_nat"])
    (one,) = rank([tmp_path / "results"]).ranked
    assert one.place == 1 and one.parts["anatomy"] == 0
