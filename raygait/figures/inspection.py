"""What became of one clip: its people, frame by frame, what was left out and why, and the time.

The page is for the look before ten thousand clips are preprocessed: whether boxes are on people,
whether masks are whole, which setting costs the most frames, where the time goes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from raygait.figures import ink, tables
from raygait.figures.clip_charts import (
    BOX_KEPT,
    BOX_REJECTED,
    MAX_BARS,
    REJECTED,
    draw_boxes,
    quality_plot,
    timeline,
    timeline_bars,
)
from raygait.figures.contact_sheets import Row, sequence_strip
from raygait.figures.markup import Html, element, join, picture
from raygait.figures.page import Section, fact_list, whole_page
from raygait.shards.writer import whole_file
from raygait.video.decode import Frame
from raygait.video.extraction import FrameQuality, RejectedTrack
from raygait.video.settings import VideoSettings
from raygait.video.timing import NETWORK_STAGES
from raygait.video.tracking import Track

MAX_SEQUENCES = 12
"""Sequences that get a strip and a plot, the longest ones; all are listed."""
NUM_FRAMES = 6
"""Whole frames that are shown."""

QUALITY = tuple(field.name for field in dataclasses.fields(FrameQuality))
"""Columns of a row with one measure a frame."""

OTHER = "other"
"""Time of none of the stages."""

_CROP_STAGES = frozenset(("crop", "pose", "mask", "silhouette"))
_STAGE_COLOURS: Mapping[str, str] = {
    "decode": "#2f9b72",
    "detect": "#2a6db3",
    "track": "#c2a21f",
    "decode again": "#6fbf9f",
    "crop": "#d0741c",
    "pose": "#5fa0e0",
    "mask": "#cc6aa8",
    "silhouette": "#8a63c4",
    "finish": "#97683a",
    "encode": "#4aa9b5",
}
_STYLE = """
.pairs th { overflow-wrap: normal; }
.frames { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); margin: 1.5rem 0; }
.frames img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.plot img { display: block; width: 100%; min-width: 47rem; height: auto; }
.strips .plot { background: none; padding: 0; margin-top: .75rem; }
.swatch { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px;
  margin-right: .5rem; }
.swatch.frame { border: 3px solid; }
.stack { display: flex; height: 2rem; border-radius: .25rem; overflow: hidden; margin: 1.25rem 0; }
.stack span { min-width: 1px; }
"""


@dataclass(frozen=True)
class Inspection:
    """What is known of one clip after it went through `video`.

    Attributes:
        source: Name of the clip.
        stored_size_px: Width and height as the file stores them.
        size_px: Width and height of the upright image.
        fps: Frame rate; NaN when unknown.
        num_frames: Frames that were decoded.
        damage: One sentence about those that were not; empty for a whole clip.
        detector: The detector in use; says what `auto` became.
        settings: What decided the rest.
        tracks: What was found.
        rows: The sequences, as `shards.workers.to_row` makes them, arrays as lists.
        rejects: What did not become a sequence, and why.
        frames: Whole frames, of `clip_charts.fit_frame` or larger.
        num_crops: People looked at, each in each frame.
        seconds: Wall time by stage, in order.
    """

    source: str
    stored_size_px: tuple[int, int]
    size_px: tuple[int, int]
    fps: float
    num_frames: int
    damage: str
    detector: str
    settings: VideoSettings
    tracks: Sequence[Track]
    rows: Sequence[Row]
    rejects: Sequence[RejectedTrack]
    frames: Sequence[Frame]
    num_crops: int
    seconds: Mapping[str, float]

    @property
    def network_stages(self) -> tuple[str, ...]:
        """Stages of this clip that are a network's passes; finding what moves is none."""
        stages = [*NETWORK_STAGES, *(["mask"] if self.settings.mask == "onnx" else [])]
        if self.detector == "motion":
            stages.remove("detect")
        return tuple(stage for stage in stages if stage in self.seconds)

    @property
    def network_ratio(self) -> float:
        """Share of the networks' stages in all the time; NaN where no time was taken."""
        total_s = sum(self.seconds.values())
        networks_s = sum(self.seconds[stage] for stage in self.network_stages)
        return networks_s / total_s if total_s > 0 else math.nan

    def milliseconds(self, stage: str) -> float:
        """Time of a stage a frame of the clip."""
        return 1000 * self.seconds[stage] / self.num_frames

    def milliseconds_a_crop(self, stage: str) -> float:
        """Time of a stage a person and frame; NaN for stages that are not of one person."""
        is_of_frames = stage == "mask" and self.settings.mask == "background"
        if stage not in _CROP_STAGES or is_of_frames or self.num_crops == 0:
            return math.nan
        return 1000 * self.seconds[stage] / self.num_crops

    def to_dict(self) -> dict[str, object]:
        """All numbers as plain values for JSON, without pictures; None where one is not known."""
        return {
            "source": self.source,
            "stored_size_px": list(self.stored_size_px),
            "size_px": list(self.size_px),
            "fps": _known(self.fps),
            "num_frames": self.num_frames,
            "damage": self.damage,
            "detector": self.detector,
            "settings": self.settings.to_dict(),
            "tracks": [
                {
                    "track": track.number,
                    "frame_indices": track.frame_indices.tolist(),
                    "boxes_px": track.boxes_px.tolist(),
                    "scores": _known(track.scores.tolist()),
                }
                for track in self.tracks
            ],
            "sequences": [
                {
                    name: _known(row[name])
                    for name in (
                        *("track", "num_frames", "frame_indices", "boxes_px", *QUALITY),
                        *("track_person_score", "left_out_indices", "left_out_reasons"),
                    )
                }
                for row in self.rows
            ],
            "rejects": [reject._asdict() for reject in self.rejects],
            "num_crops": self.num_crops,
            "seconds": dict(self.seconds),
            "network_ratio": _known(self.network_ratio),
        }


def write_inspection(path: Path, inspection: Inspection) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: The HTML file; its folder is made if missing.
        inspection: What to show.
    """
    text = render(inspection)
    with whole_file(path) as file:
        file.write(text.encode())


def render(inspection: Inspection) -> str:
    """The page as text; `write_inspection` says the rest."""
    header = [element("h1", inspection.source), _facts(inspection), _about(inspection)]
    sections = [
        _frames(inspection),
        _timeline(inspection),
        _sequences(inspection),
        _rejects(inspection),
        _time(inspection),
        _settings(inspection),
    ]
    return whole_page(inspection.source, header, sections, style=_STYLE)


def summary(inspection: Inspection) -> str:
    """The same in a few lines for a terminal."""
    width_px, height_px = inspection.size_px
    lines = [
        f"{inspection.source}: {width_px}×{height_px} px, {_rate(inspection)}, "
        f"{inspection.num_frames} frames{_duration(inspection)}, detector {inspection.detector}"
    ]
    if inspection.damage:
        lines.append(f"damage: {inspection.damage}")
    lines.append(f"{_count(len(inspection.tracks), 'track')} found, {_kept(inspection)}")
    left_out = Counter(reason for row in inspection.rows for reason in row["left_out_reasons"])
    lines += [f"  {count:>5}  left out: {reason}" for reason, count in left_out.most_common()]
    reasons = Counter((r.stage, r.reason) for r in inspection.rejects)
    lines.append(f"{_count(len(inspection.rejects), 'reject')}{':' if reasons else ''}")
    lines += [
        f"  {count:>5}  {reason} (stage {stage})"
        for (stage, reason), count in reasons.most_common()
    ]
    total_s = sum(inspection.seconds.values())
    lines.append(
        f"time: {total_s:.1f} s, {1000 * total_s / inspection.num_frames:.1f} ms a frame, "
        f"{_networks(inspection)}"
    )
    for stage in inspection.seconds:
        crop_ms = inspection.milliseconds_a_crop(stage)
        a_crop = f"  {crop_ms:6.1f} ms a crop" if math.isfinite(crop_ms) else ""
        share = inspection.seconds[stage] / total_s if total_s > 0 else math.nan
        lines.append(
            f"  {stage:<13}{share:>5.0%}  {inspection.milliseconds(stage):7.1f} ms a frame{a_crop}"
        )
    return "\n".join(lines)


def frames_to_show(
    tracks: Sequence[Track], rows: Sequence[Row], *, num_frames: int = NUM_FRAMES
) -> list[int]:
    """Numbers of frames, evenly spaced over those of sequences; of tracks where there are none."""
    indices = {index for row in rows for index in row["frame_indices"]}
    if not indices:
        indices = {int(index) for track in tracks for index in track.frame_indices}
    ordered = sorted(indices)
    wanted = min(num_frames, len(ordered))
    # Neither end: people come and go there.
    return [ordered[int((at + 0.5) * len(ordered) / wanted)] for at in range(wanted)]


def _facts(inspection: Inspection) -> Html:
    width_px, height_px = inspection.size_px
    return fact_list(
        [
            (f"{width_px}×{height_px}", "pixels, upright"),
            (f"{inspection.num_frames:,}", f"frames{_duration(inspection)}"),
            (_rate(inspection), "frame rate"),
            (f"{len(inspection.tracks):,}", "tracks found"),
            (f"{len(inspection.rows):,}", "sequences kept"),
            (f"{len(inspection.rejects):,}", "rejects, each with a reason"),
        ]
    )


def _about(inspection: Inspection) -> Html:
    stored, shown = inspection.stored_size_px, inspection.size_px
    size = (
        "stored as shown"
        if stored == shown
        else f"stored as {stored[0]}×{stored[1]}, {shown[0]}×{shown[1]} once made upright"
    )
    total_s = sum(inspection.seconds.values())
    return tables.key_values(
        {
            "size": size,
            "damage": inspection.damage or "none: every frame was decoded",
            "detector": inspection.detector,
            "result": _kept(inspection),
            "time": f"{total_s:.1f} s, {_networks(inspection)}",
        }
    )


def _frames(inspection: Inspection) -> Section:
    kept, rejected = _swatch(_css(BOX_KEPT), "frame"), _swatch(_css(BOX_REJECTED), "frame")
    legend = element(
        "p",
        *(kept, "of a sequence, thin where it leaves this frame out; "),
        *(rejected, "of a rejected track. Numbers are those of the tracks."),
        class_="soft",
    )
    figures = [
        element(
            "figure",
            picture(
                draw_boxes(
                    frame, inspection.tracks, inspection.rows, width_px=inspection.size_px[0]
                ),
                f"Frame {frame.index} with boxes",
                photographic=True,
            ),
            element("figcaption", f"frame {frame.index}"),
        )
        for frame in inspection.frames
    ]
    return Section(
        "frames", "Whole frames", join(legend, element("div", *figures, class_="frames"))
    )


def _timeline(inspection: Inspection) -> Section:
    bars = timeline_bars(inspection.tracks, inspection.rows, inspection.rejects)
    about = (
        "A bar a sequence or rejected track, from its first frame to its last. Coloured frames of "
        "a sequence were left out of it; a rejected track says why."
    )
    if len(bars) > MAX_BARS:
        about += f" The longest {MAX_BARS} of {len(bars)} are drawn."
    return Section(
        "timeline",
        "Timeline",
        join(element("p", about), _plot(timeline(bars, inspection.num_frames), "Timeline")),
    )


def _sequences(inspection: Inspection) -> Section:
    if not inspection.rows:
        return Section("sequences", "Sequences", element("p", "No track became a sequence."))
    ordered = sorted(inspection.rows, key=lambda row: (-row["num_frames"], row["track"]))
    about = element(
        "p",
        "Twelve frames from first to last: crop, aligned silhouette and joints, as far as they "
        "were asked for. Below them what was measured in each frame; dashed and dotted lines are "
        "the settings' limits. Of frames that were left out only the reason is known.",
    )
    shown = [_sequence(row, inspection.settings) for row in ordered[:MAX_SEQUENCES]]
    listed = tables.listing(
        ["track", "frames", "of the source", "left out", "walking", "person score"],
        [
            [
                str(row["track"]),
                str(row["num_frames"]),
                f"{row['frame_indices'][0]}–{row['frame_indices'][-1]}",
                str(len(row["left_out_indices"])),
                f"{np.mean(row['is_walking']):.0%}",
                _number(row["track_person_score"], 2),
            ]
            for row in ordered
        ],
        number_columns=range(1, 6),
    )
    more = len(ordered) - len(shown)
    said = (
        f"All {len(ordered)}: the {more} shorter ones are not shown above"
        if more > 0
        else _count(len(ordered), "sequence")
    )
    return Section(
        "sequences",
        "Sequences",
        join(about, element("div", *shown, class_="strips"), element("h3", said), listed),
    )


def _sequence(row: Row, settings: VideoSettings) -> Html:
    name, *rest = _pieces(row)
    photographic = row.get("rgb") is not None or row.get("heatmaps") is not None
    strip = picture(sequence_strip(row), f"Frames of {name}", photographic=photographic)
    return element(
        "figure",
        element("figcaption", element("b", name), *(element("span", piece) for piece in rest)),
        element("div", strip, class_="scroll", tabindex=0),
        _plot(quality_plot(row, settings), f"Quality of {name}"),
    )


def _rejects(inspection: Inspection) -> Section:
    if not inspection.rejects:
        return Section("rejects", "Rejects", element("p", "Nothing was rejected."))
    listed = tables.listing(
        ["track", "stage", "reason", "detail"],
        [
            [
                "clip" if reject.track < 0 else str(reject.track),
                reject.stage,
                reject.reason,
                reject.detail,
            ]
            for reject in inspection.rejects
        ],
    )
    return Section("rejects", "Rejects", listed)


def _time(inspection: Inspection) -> Section:
    seconds = inspection.seconds
    total_s = sum(seconds.values())
    about = element(
        "p",
        f"Wall time of one process on this machine, {_count(inspection.num_crops, 'crop')} of "
        f"people in {_count(inspection.num_frames, 'frame')}; loading networks and making this "
        f"page are not counted. Share of {_networks(inspection)}.",
    )
    shares = {stage: value / total_s if total_s > 0 else 0.0 for stage, value in seconds.items()}
    bar = element(
        "div",
        *(
            element(
                "span",
                title=f"{stage} {share:.1%}",
                style=f"width: {100 * share:.2f}%; background: {_stage_colour(stage)}",
            )
            for stage, share in shares.items()
        ),
        class_="stack",
    )
    rows: list[list[str]] = [
        [
            element("span", _swatch(_stage_colour(stage), "area"), stage, class_="name"),
            f"{share:.1%}",
            _number(inspection.milliseconds(stage), 2),
            _number(inspection.milliseconds_a_crop(stage), 2),
            _number(seconds[stage], 2),
            "network" if stage in inspection.network_stages else "",
        ]
        for stage, share in shares.items()
    ]
    all_ms = 1000 * total_s / inspection.num_frames
    rows.append(
        [element("b", "together"), "", _number(all_ms, 2), "", _number(total_s, 2), ""],
    )
    names = ["stage", "share", "ms a frame", "ms a crop", "seconds", ""]
    listed = tables.listing(names, rows, number_columns=range(1, 5))
    return Section("time", "Time", join(about, bar, listed))


def _settings(inspection: Inspection) -> Section:
    values = inspection.settings.to_dict()
    shown = {name: "–" if value == "" else value for name, value in values.items()}
    return Section("settings", "Settings", tables.key_values(shown))


def _plot(figure: Figure, alternative: str) -> Html:
    image = picture(ink.to_rgba(figure), alternative, scale=2)
    return element("div", image, class_="scroll plot", tabindex=0)


def _swatch(colour: str, kind: Literal["area", "frame"]) -> Html:
    rule = "border-color" if kind == "frame" else "background"
    return element("span", class_=f"swatch {kind}", style=f"{rule}: {colour}")


def _css(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour)


def _stage_colour(stage: str) -> str:
    return _STAGE_COLOURS.get(stage, REJECTED)


def _pieces(row: Row) -> list[str]:
    """What is said of a sequence, the track's number first."""
    indices = row["frame_indices"]
    pieces = [
        f"track {row['track']}",
        _count(row["num_frames"], "frame"),
        f"source frames {indices[0]} to {indices[-1]}",
    ]
    tally: Counter[str] = Counter(row["left_out_reasons"])
    if tally:
        reasons = ", ".join(f"{count} {reason}" for reason, count in tally.most_common())
        pieces.append(f"{tally.total()} left out ({reasons})")
    pieces.append(f"walking in {np.mean(row['is_walking']):.0%}")
    if math.isfinite(row["track_person_score"]):
        pieces.append(f"median person score {row['track_person_score']:.2f}")
    return pieces


def _kept(inspection: Inspection) -> str:
    num_frames = sum(row["num_frames"] for row in inspection.rows)
    num_left_out = sum(len(row["left_out_indices"]) for row in inspection.rows)
    return (
        f"{_count(len(inspection.rows), 'sequence')} kept, with {_count(num_frames, 'frame')} and "
        f"{num_left_out:,} left out"
    )


def _networks(inspection: Inspection) -> str:
    stages = " and ".join(inspection.network_stages) or "none"
    return f"networks ({stages}) {inspection.network_ratio:.0%}"


def _rate(inspection: Inspection) -> str:
    return f"{inspection.fps:.4g} fps" if math.isfinite(inspection.fps) else "unknown rate"


def _duration(inspection: Inspection) -> str:
    fps = inspection.fps
    return f", {inspection.num_frames / fps:.1f} s" if math.isfinite(fps) and fps > 0 else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if math.isfinite(value) else "–"


def _known(value: Any) -> Any:
    """The value, numbers that are none as None, which JSON can say."""
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
