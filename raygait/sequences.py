"""`GaitSequence`: who walked where, and in which file. The one record every room speaks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

SourceKind = Literal["video", "silhouettes", "cropped", "aligned", "pickles", "images"]
"""What a source is made of.

- video: a clip to track people in.
- images: a folder of pictures, one a frame, read as a clip.
- silhouettes: a folder of masks as a camera saw them, all of one size.
- cropped: a folder of masks each cut to its person, of any sizes.
- aligned: a folder of masks that are centred and scaled already.
- pickles: a folder of pickled arrays, one a modality, or one such file.
"""


@dataclass(frozen=True, order=True)
class GaitSequence:
    """One source of frames, and what its owner says about it.

    A labelled source shows one known subject. An unlabelled video (`subject == ""`) may show any
    number of people; each track in it becomes a row of its own whose subject stays unknown.

    Attributes:
        dataset: Name of the data set, `casiab`, or any name a user gives to a folder.
        subject: Identity as the data set writes it, `"001"`; empty when nobody has said who it is.
        condition: What changed between walks, `"nm-01"`; empty when unknown.
        view: Camera or angle as the data set writes it, `"090"`; empty when unknown.
        source: Path below the data set's root, `/` separated: a file or a folder of frames.
        kind: What the source is made of.
        poses: Folder of a file of joints for each mask, below the root too, and maybe the source
            itself; empty where the owner has put none beside the masks. Whether they are there is
            found out when they are read, as it is of the other two.
        colours: Folder of a picture for each mask, cut to the person as the mask is; or empty.
        colour_masks: Folder of the masks that were cut as those pictures were; empty where the
            source holds them.
    """

    dataset: str
    subject: str
    condition: str
    view: str
    source: str
    kind: SourceKind = "video"
    poses: str = ""
    colours: str = ""
    colour_masks: str = ""

    @property
    def source_id(self) -> str:
        """`dataset:source`, unique below one root and stable between machines."""
        return f"{self.dataset}:{self.source}"

    @property
    def beside(self) -> tuple[str, ...]:
        """Folders of what lies beside the frames; none where there is nothing."""
        return tuple(place for place in (self.poses, self.colours, self.colour_masks) if place)

    def to_dict(self) -> dict[str, str]:
        """Plain strings, for Ray Data rows and JSON; of the folders beside it those there are."""
        places = ("poses", "colours", "colour_masks")
        fields = dataclasses.asdict(self)
        return {name: text for name, text in fields.items() if text or name not in places}


@dataclass(frozen=True)
class Reject:
    """Something that did not become a row, and why. Nothing is dropped without one.

    Attributes:
        source_id: `GaitSequence.source_id` of the source.
        track: Number of the track inside a video; -1 when the whole source is meant.
        stage: Where it ended: `decode`, `detect`, `gate`, `silhouette`.
        reason: A short fixed word to count by: `undecodable`, `no-person`, `short-track`, ...
        detail: One sentence for a person: what was got, what was expected.
    """

    source_id: str
    track: int
    stage: str
    reason: str
    detail: str
