"""The papers' ablation tables as data: row -> overrides of a recipe -> the printed numbers.

A table is trained by `python jobs/tune.py gaitgl-table-5 ...`; the default of every switch is the
row that the paper proposes, so that row has no overrides but what its whole table has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raygait.errors import RecipeError
from raygait.recipes import named
from raygait.recipes.schema import Recipe, with_overrides


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        overrides: Dotted path of the recipe -> value. Empty for the row the paper proposes.
        printed: Metric -> the number in the paper.
        recipe: Recipe the row starts from, where it is another than the table's.
        note: What the reader has to know beside the numbers.
    """

    overrides: Mapping[str, Any]
    printed: Mapping[str, float]
    recipe: str = ""
    note: str = ""


@dataclass(frozen=True)
class AblationTable:
    """A table, or the part of a figure, that a paper prints.

    Attributes:
        source: Paper and table, data set, metric, and slips of the print.
        recipe: Recipe that the rows start from.
        rows: Name -> row, in the paper's order.
    """

    source: str
    recipe: str
    rows: Mapping[str, Row] = field(repr=False)

    def recipe_of(self, row: str) -> Recipe:
        """The recipe of one row.

        Raises:
            RecipeError: The table has no such row.
        """
        if row not in self.rows:
            raise RecipeError(f"{self.source}: no row {row!r}; there are {list(self.rows)}")
        entry = self.rows[row]
        return with_overrides(named.recipe(entry.recipe or self.recipe), entry.overrides)


def table(name: str) -> AblationTable:
    """A table by its name.

    Raises:
        RecipeError: There is none of this name.
    """
    if name not in TABLES:
        raise RecipeError(f"no ablation table is named {name!r}; there are {sorted(TABLES)}")
    return TABLES[name]


def _casiab(nm: float, bg: float, cl: float) -> dict[str, float]:
    return {"NM": nm, "BG": bg, "CL": cl}


_GAITGL = {
    "gaitgl-table-5": AblationTable(
        "GaitGL (journal) Table 5, CASIA-B, rank-1 in percent",
        "gaitgl-casiab",
        {
            "global": Row({"model.branches": "global"}, _casiab(97.4, 94.5, 85.1)),
            "local strips vertical": Row({"model.branches": "local"}, _casiab(97.3, 94.8, 85.8)),
            "fixed parts": Row({"model.mask_strategy": "fixed_parts"}, _casiab(97.7, 95.0, 86.0)),
            "parts horizontal": Row(
                {"model.mask_strategy": "part_horizontal"}, _casiab(97.9, 95.6, 86.9)
            ),
            "parts vertical": Row(
                {"model.mask_strategy": "part_vertical"}, _casiab(98.0, 95.6, 87.0)
            ),
            "strips horizontal": Row(
                {"model.mask_strategy": "strip_horizontal"}, _casiab(97.7, 95.4, 87.2)
            ),
            "strips vertical": Row({}, _casiab(98.0, 95.4, 87.3)),
            "pixels": Row({"model.mask_strategy": "pixel"}, _casiab(97.8, 95.5, 86.3)),
        },
    ),
    "gaitgl-table-6": AblationTable(
        "GaitGL (journal) Table 6, CASIA-B, rank-1 in percent; its caption swaps Max and Avg",
        "gaitgl-casiab",
        {
            "max": Row({"model.spatial_mapping": "max"}, _casiab(97.8, 94.8, 85.4)),
            "avg": Row({"model.spatial_mapping": "avg"}, _casiab(97.2, 94.6, 84.9)),
            "both": Row({"model.spatial_mapping": "both"}, _casiab(97.7, 94.7, 85.1)),
            "gem": Row({}, _casiab(98.0, 95.4, 87.3)),
        },
    ),
    "gaitgl-table-7": AblationTable(
        "GaitGL (journal) Table 7, CASIA-B, rank-1 in percent",
        "gaitgl-casiab",
        {
            "sp sp": Row({"model.pooling": ["sp", "sp", None]}, _casiab(96.5, 91.4, 78.2)),
            "sp lta": Row({"model.pooling": ["sp", "lta", None]}, _casiab(97.5, 94.5, 84.2)),
            "lta sp": Row({}, _casiab(98.0, 95.4, 87.3)),
            "lta lta": Row({"model.pooling": ["lta", "lta", None]}, _casiab(96.3, 92.3, 80.5)),
        },
    ),
    "gaitgl-figure-4": AblationTable(
        "GaitGL (journal) Fig. 4 (the text calls it 4.3), CASIA-B: curves without numbers, "
        "described as stable",
        "gaitgl-casiab",
        {
            f"{strategy} {ratio}": Row(
                {"model.mask_strategy": strategy, "model.drop_ratio": ratio}, {}
            )
            for strategy, ratios in (
                ("part_horizontal", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
                ("part_vertical", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
                ("strip_horizontal", (0.1, 0.2, 0.3, 0.4, 0.5)),
                ("strip_vertical", (0.1, 0.2, 0.3, 0.4, 0.5)),
                ("pixel", (0.1, 0.2, 0.3, 0.4, 0.5)),
            )
            for ratio in ratios
        },
    ),
}


def _reid(rank1: float, rank5: float, mean_ap: float, minp: float) -> dict[str, float]:
    return {"R-1": rank1, "R-5": rank5, "mAP": mean_ap, "mINP": minp}


def _differences(*, local: bool, overall: bool, aligned: bool = False) -> dict[str, Any]:
    return {
        "model.local_difference": local,
        "model.global_difference": overall,
        "model.temporal_alignment": aligned,
    }


_LGDIFFGAIT = {
    "lgdiffgait-table-5": AblationTable(
        "LGDiffGait Table 5, Gait3D, in percent; its rows differ sixfold in size",
        "lgdiffgait-gait3d",
        {
            "none": Row(_differences(local=False, overall=False), _reid(71.2, 85.7, 62.9, 44.3)),
            "LDM": Row(_differences(local=True, overall=False), _reid(72.9, 88.0, 64.2, 46.8)),
            "GDM": Row(_differences(local=False, overall=True), _reid(72.6, 87.6, 63.4, 46.3)),
            "LDM, GDM": Row(_differences(local=True, overall=True), _reid(73.8, 88.6, 64.8, 47.1)),
            "LDM, GDM, TAM": Row({}, _reid(74.2, 89.3, 65.7, 48.6)),
        },
    ),
}


# Without a GSFE there is no sub-network B: one phase, A's.
_ONLY_A: dict[str, Any] = {
    "model.gsfe_layers": None,
    "model.phase": "a",
    "before": {},
    "num_steps": 80_000,
    "optim.milestones": [70_000],
}
_BASELINE = {**_ONLY_A, "model.scales": None, "model.mff": None}


def _scales(*scales: int) -> dict[str, Any]:
    return {"model.scales": list(scales)}


_LMGCS = {
    "lmgcs-table-8": AblationTable(
        "LMGCS Table VIII, CASIA-B LT, rank-1 in percent",
        "lmgcs-casiab-lt",
        {
            "none": Row(_BASELINE, _casiab(96.0, 92.6, 81.2)),
            "LMFE": Row({**_ONLY_A, "model.mff": None}, _casiab(97.1, 94.0, 82.7)),
            "LMFE, MFF": Row(_ONLY_A, _casiab(97.2, 94.9, 84.6)),
            "LMFE, GSFE": Row({"model.mff": None}, _casiab(97.8, 95.3, 84.6)),
            "LMFE, MFF, GSFE": Row({}, _casiab(98.0, 95.4, 85.0)),
        },
    ),
    "lmgcs-table-9": AblationTable(
        "LMGCS Table IX, CASIA-B LT, rank-1 in percent; MFF and GSFE stay on here, although its "
        "first row has the figures of Table VIII's baseline",
        "lmgcs-casiab-lt",
        {
            "fine": Row(_scales(1), _casiab(96.0, 92.6, 81.2)),
            "medium": Row(_scales(3), _casiab(95.4, 92.2, 80.9)),
            "coarse": Row(_scales(5), _casiab(95.2, 92.0, 80.6)),
            "fine, medium": Row(_scales(1, 3), _casiab(97.9, 95.2, 84.7)),
            "medium, coarse": Row(_scales(3, 5), _casiab(97.3, 94.0, 82.8)),
            "fine, coarse": Row(_scales(1, 5), _casiab(97.6, 95.0, 84.4)),
            "fine, medium, coarse": Row({}, _casiab(98.0, 95.4, 85.0)),
        },
    ),
    "lmgcs-table-10": AblationTable(
        "LMGCS Table X, CASIA-B LT, rank-1 in percent; its MT3D differs from Table V's",
        "lmgcs-casiab-lt",
        {
            "baseline": Row(_BASELINE, _casiab(96.0, 92.6, 81.2)),
            "baseline, GSFE 4x4": Row(
                {"model.scales": None, "model.mff": None}, _casiab(97.7, 94.7, 83.4)
            ),
            "baseline, LMFE, GSFE 1x1": Row(
                {"model.mff": None, "model.gsfe_layers": [1, 1]}, _casiab(97.8, 95.0, 84.4)
            ),
            "baseline, LMFE, GSFE 4x4": Row({"model.mff": None}, _casiab(97.8, 95.3, 84.6)),
            "GaitSet": Row({}, _casiab(95.0, 87.2, 70.4), "gaitset-casiab"),
            "GaitSet, GSFE 4x4": Row(
                {"model.frame_pooling": "gsfe"}, _casiab(97.0, 89.2, 74.5), "gaitset-casiab"
            ),
            "MT3D": Row({}, _casiab(96.5, 93.4, 81.6), "mt3d-casiab"),
            "MT3D, GSFE 4x4": Row(
                {"model.frame_pooling": "gsfe"}, _casiab(97.8, 94.5, 83.0), "mt3d-casiab"
            ),
        },
    ),
    "lmgcs-table-11": AblationTable(
        "LMGCS Table XI, CASIA-B LT, rank-1 in percent",
        "lmgcs-casiab-lt",
        {
            "static 1 to 5": Row({}, _casiab(98.0, 95.4, 85.0)),
            "static 5 to 1": Row({"model.mff": "static_descending"}, _casiab(97.8, 95.1, 84.5)),
            "attention": Row({"model.mff": "attention"}, _casiab(98.5, 95.1, 84.4)),
        },
    ),
    "lmgcs-table-12": AblationTable(
        "LMGCS Table XII and Fig. 8, CASIA-B LT, rank-1 in percent",
        "lmgcs-casiab-lt",
        {
            "32": Row({"model.embedding_dim": 32}, _casiab(96.4, 92.2, 81.8)),
            "64": Row({"model.embedding_dim": 64}, _casiab(97.0, 94.3, 83.7)),
            "128": Row({"model.embedding_dim": 128}, _casiab(97.7, 94.8, 85.5)),
            "256": Row({}, _casiab(98.0, 95.4, 85.0)),
            "512": Row({"model.embedding_dim": 512}, _casiab(97.5, 95.0, 84.5)),
            "1024": Row({"model.embedding_dim": 1024}, _casiab(97.1, 94.7, 84.5)),
        },
    ),
    "lmgcs-table-13": AblationTable(
        "LMGCS Table XIII, CASIA-B LT, rank-1 in percent",
        "lmgcs-casiab-lt",
        {
            "1, 5, 7": Row(_scales(1, 5, 7), _casiab(93.3, 89.8, 70.2)),
            "1, 3, 5": Row({}, _casiab(98.0, 95.4, 85.0)),
            "3, 5, 7": Row(_scales(3, 5, 7), _casiab(91.9, 89.2, 72.5)),
        },
    ),
    "lmgcs-table-14": AblationTable(
        "LMGCS Table XIV and Fig. 9, CASIA-B LT, rank-1 in percent",
        "lmgcs-casiab-lt",
        {
            "cross-entropy": Row(
                {"loss.triplet_weight": 0.0, "before.a.loss.triplet_weight": 0.0},
                _casiab(97.4, 94.3, 83.4),
            ),
            "triplet": Row(
                {"loss.identity_weight": 0.0, "before.a.loss.identity_weight": 0.0},
                _casiab(97.9, 95.3, 84.8),
            ),
            "both": Row({}, _casiab(98.0, 95.4, 85.0)),
        },
    ),
}


def _star(nm: float, bg: float, cl: float, ttg200: float) -> dict[str, float]:
    return {"NM": nm, "BG": bg, "CL": cl, "TTG-200": ttg200}


_ON_TTG200 = {"data.split": "ttg200", "data.protocol": "ttg200"}
_E2E = {"model.synthesis": "whole"}
_SHIFTED = {"data.shift_px": 10}


def _element(size_px: int) -> dict[str, Any]:
    return {"model.structuring_element_px": size_px}


_GAITEDGE_SOURCE = (
    "rank-1 in percent on CASIA-B* (identical views left out) and on TTG-200; the set that a row "
    "was not trained on is scored by jobs/evaluate.py with that set's shards"
)
_GAITEDGE = {
    "gaitedge-table-2-casiab": AblationTable(
        f"GaitEdge Table 2 and Fig. 2(d), trained on CASIA-B*; {_GAITEDGE_SOURCE}",
        "gaitedge-casiab",
        {
            "GaitSet": Row({}, _star(92.30, 86.10, 73.36, 40.26), "gaitset-casiab"),
            "GaitPart": Row({}, _star(93.14, 85.99, 75.05, 42.23), "gaitpart-casiab"),
            "GaitGL": Row({}, _star(94.15, 89.98, 81.42, 48.74), "gaitgl-iccv-casiab"),
            "GaitGL-E2E": Row(_E2E, _star(99.06, 98.24, 89.45, 37.18)),
            "GaitEdge": Row({}, _star(97.94, 96.06, 86.36, 49.12)),
        },
    ),
    "gaitedge-table-2-ttg200": AblationTable(
        f"GaitEdge Table 2 and Fig. 2(d), trained on TTG-200; {_GAITEDGE_SOURCE}",
        "gaitedge-ttg200",
        {
            "GaitSet": Row(_ON_TTG200, _star(41.32, 35.15, 21.59, 77.62), "gaitset-casiab"),
            "GaitPart": Row(_ON_TTG200, _star(45.21, 38.75, 25.92, 80.24), "gaitpart-casiab"),
            "GaitGL": Row(_ON_TTG200, _star(50.47, 45.29, 40.34, 80.46), "gaitgl-iccv-casiab"),
            "GaitGL-E2E": Row(_E2E, _star(51.24, 45.93, 27.18, 90.37)),
            "GaitEdge": Row({}, _star(54.76, 49.85, 38.16, 88.66)),
        },
    ),
    "gaitedge-table-4-casiab": AblationTable(
        f"GaitEdge Table 4, trained on CASIA-B*; {_GAITEDGE_SOURCE}",
        "gaitedge-casiab",
        {
            "3 x 3": Row({}, _star(97.94, 96.06, 86.36, 49.12)),
            "5 x 5": Row(_element(5), _star(98.88, 97.36, 88.24, 50.98)),
            "7 x 7": Row(_element(7), _star(98.97, 97.90, 88.36, 49.15)),
            "9 x 9": Row(_element(9), _star(99.02, 98.19, 89.05, 44.47)),
            "GaitGL-E2E": Row(_E2E, _star(99.06, 98.24, 89.45, 37.18)),
        },
    ),
    "gaitedge-table-4-ttg200": AblationTable(
        f"GaitEdge Table 4, trained on TTG-200; {_GAITEDGE_SOURCE}",
        "gaitedge-ttg200",
        {
            "3 x 3": Row({}, _star(54.76, 49.85, 38.16, 88.66)),
            "5 x 5": Row(_element(5), _star(49.21, 45.22, 33.71, 89.62)),
            "7 x 7": Row(_element(7), _star(50.26, 44.20, 32.43, 90.00)),
            "9 x 9": Row(_element(9), _star(48.84, 41.72, 27.66, 90.39)),
            "GaitGL-E2E": Row(_E2E, _star(51.24, 45.93, 27.18, 90.37)),
        },
    ),
    "gaitedge-figure-6b": AblationTable(
        "GaitEdge Fig. 6(b), disturbed CASIA-B*: bars; the text says that alignment raises the "
        "average and lowers NM by 0.38. The size of the disturbance is not printed: 10 px here",
        "gaitedge-casiab",
        {
            "aligned": Row(_SHIFTED, {}),
            "not aligned": Row({**_SHIFTED, "model.align": False}, {}),
        },
    ),
}


def _ccpg(cl: float, up: float, dn: float, bg: float) -> dict[str, float]:
    return {"CL": cl, "UP": up, "DN": dn, "BG": bg}


def _ccpg_map(cl: float, up: float, dn: float, bg: float) -> dict[str, float]:
    return {"CL mAP": cl, "UP mAP": up, "DN mAP": dn, "BG mAP": bg}


_NO_ALIGNMENT = {"model.alignment": False}
# Limbs and joints drawn anew, a channel each, centred and scaled already.
_REDRAWN: dict[str, Any] = {
    **_NO_ALIGNMENT,
    "data.modality": "heatmaps_redrawn",
    "data.height_px": 64,
    "data.width_px": 64,
    "model.partitions": [0, 1],
}
_GAITHEAT = {
    "gaitheat-table-3a": AblationTable(
        "GaitHeat Table 3a, tested on CASIA-B, rank-1 in percent, HRNet's heatmaps",
        "gaitheat-casiab",
        {
            "CCPG": Row({}, _casiab(54.18, 46.30, 32.98), "gaitheat-ccpg-to-casiab"),
            "SUSTech1K": Row({}, _casiab(77.59, 63.57, 23.16), "gaitheat-sustech1k-to-casiab"),
        },
    ),
    "gaitheat-table-3b": AblationTable(
        "GaitHeat Table 3b, tested on SUSTech1K, in percent, HRNet's heatmaps",
        "gaitheat-sustech1k",
        {
            "CCPG": Row({}, {"R-1": 11.45, "R-5": 25.00}, "gaitheat-ccpg-to-sustech1k"),
            "CASIA-B": Row({}, {"R-1": 10.51, "R-5": 22.41}, "gaitheat-casiab-to-sustech1k"),
        },
    ),
    "gaitheat-table-3c": AblationTable(
        "GaitHeat Table 3c, tested on CCPG, rank-1 in percent, HRNet's heatmaps",
        "gaitheat-ccpg",
        {
            "CASIA-B": Row({}, _ccpg(5.63, 9.79, 18.30, 21.59), "gaitheat-casiab-to-ccpg"),
            "SUSTech1K": Row({}, _ccpg(5.41, 11.90, 19.06, 27.47), "gaitheat-sustech1k-to-ccpg"),
        },
    ),
    "gaitheat-table-4-casiab": AblationTable(
        "GaitHeat Table 4, CASIA-B, rank-1 in percent, HRNet's heatmaps",
        "gaitheat-casiab",
        {
            "redrawn": Row(_REDRAWN, _casiab(91.47, 76.59, 57.69)),
            "native": Row({}, _casiab(98.22, 92.14, 74.15)),
        },
    ),
    "gaitheat-table-4-ccpg": AblationTable(
        "GaitHeat Table 4, CCPG, rank-1 and mAP in percent, HRNet's heatmaps",
        "gaitheat-ccpg",
        {
            "redrawn": Row(
                _REDRAWN,
                {**_ccpg(55.99, 65.86, 74.21, 70.90), **_ccpg_map(27.05, 40.24, 45.22, 44.29)},
            ),
            "native": Row(
                {}, {**_ccpg(73.59, 83.19, 86.47, 90.53), **_ccpg_map(41.06, 58.04, 60.27, 66.36)}
            ),
        },
    ),
    **{
        f"gaitheat-table-5-{train_and_test.removeprefix('gaitheat-')}": AblationTable(
            f"GaitHeat Table 5 ({where}), rank-1 in percent; its caption calls the alignment PGFA",
            train_and_test,
            {"without": Row(_NO_ALIGNMENT, without), "with": Row({}, with_it)},
        )
        for train_and_test, where, without, with_it in (
            (
                "gaitheat-casiab",
                "CASIA-B",
                _casiab(98.36, 93.04, 77.43),
                _casiab(98.22, 92.14, 74.15),
            ),
            (
                "gaitheat-ccpg-to-casiab",
                "CCPG to CASIA-B",
                _casiab(54.46, 46.82, 31.69),
                _casiab(54.18, 46.30, 32.98),
            ),
            (
                "gaitheat-ccpg",
                "CCPG",
                _ccpg(70.63, 82.50, 84.26, 89.16),
                _ccpg(73.59, 83.19, 86.47, 90.53),
            ),
            (
                "gaitheat-casiab-to-ccpg",
                "CASIA-B to CCPG",
                _ccpg(3.09, 7.54, 12.00, 14.59),
                _ccpg(5.63, 9.79, 18.30, 21.59),
            ),
        )
    },
}

TABLES: dict[str, AblationTable] = {
    **_GAITEDGE,
    **_GAITGL,
    **_GAITHEAT,
    **_LGDIFFGAIT,
    **_LMGCS,
}
