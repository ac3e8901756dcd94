"""Every error a caller may catch.

    RaygaitError
    ├── AssetError              a named third-party file cannot be had or is not what it should be
    ├── DatasetError            a data set on disk is not what its adapter expects
    │   └── SplitMismatch       the subjects on disk do not fit the split that was asked for
    ├── VideoError              one source cannot become a sequence; ingest makes a reject row of it
    │   ├── Undecodable         not a video, empty, or without one decodable frame
    │   ├── FrameSizeRefused    smaller or larger than the stated limits
    │   ├── NoPerson            nobody was found, or nobody for long enough
    │   ├── NotAMask            an image that is something else than one person's mask
    │   ├── EmptySilhouette     a mask without a usable pixel
    │   ├── UnsafePickle        a pickle that is more than an array: it would run something
    │   ├── BadArray            an array of another kind or shape than a sequence has, or cut short
    │   ├── BadPose             a file of joints that holds something else, or not as many
    │   ├── NoPose              joints were asked for, and not one mask has a pose beside it
    │   └── NoColours           colours were asked for, and not one mask has any beside it
    ├── ShardError              a shard on disk cannot be used
    │   ├── SchemaMismatch      columns or types are not the format's
    │   ├── WrongFormatVersion  written by a raygait this one does not know
    │   ├── CorruptShard        a page, a frame or a digest does not check out
    │   └── SettingsMismatch    the folder was written with other settings
    ├── EmbeddingsError         a folder of embeddings cannot be written, or cannot be trusted
    ├── RecipeError             a recipe, an override or a recipe file is not valid
    ├── ModelInputError         a tensor does not fit the model (rank, size, length, values)
    ├── ClusterTooSmall         not one worker, or not all that were asked for, can be placed
    ├── TrainingError           a run cannot start, continue or be trusted
    │   └── UntrustedStep       a loss or gradient is not finite or has exploded, on all workers
    └── RegistryError           a model version cannot be written, found or trusted

Each takes **one positional message**: an exception with keyword-only arguments does not
survive a process border, and Ray would lose its cause. A message says what, where, what was
got, what was expected, and what to do.
"""


class RaygaitError(Exception):
    """Base of every error raygait raises on purpose."""


class AssetError(RaygaitError):
    """A named third-party file cannot be had, or its digest is not the recorded one."""


class DatasetError(RaygaitError):
    """A data set on disk is not what its adapter expects."""


class SplitMismatch(DatasetError):
    """The subjects on disk do not fit the split that was asked for."""


class VideoError(RaygaitError):
    """One source cannot become a sequence. `shards.ingest` turns it into a reject row."""

    reason = "video"


class Undecodable(VideoError):
    """Not a video, empty, or without one decodable frame."""

    reason = "undecodable"


class FrameSizeRefused(VideoError):
    """The frames are smaller or larger than the stated limits."""

    reason = "frame-size"


class NoPerson(VideoError):
    """Nobody was found in the clip, or nobody stayed long enough to be a sequence."""

    reason = "no-person"


class NotAMask(VideoError):
    """An image in a folder of masks that is none: colours, alpha, 16 bits, 0..1 or inverted."""

    reason = "not-a-mask"


class EmptySilhouette(VideoError):
    """A mask without a usable pixel."""

    reason = "empty-silhouette"


class UnsafePickle(VideoError):
    """A pickle that would import, call or look up something that no array needs; it did not."""

    reason = "unsafe-pickle"


class BadArray(VideoError):
    """A file that holds no array of a sequence: cut short, of another kind, shape or length."""

    reason = "bad-array"


class BadPose(VideoError):
    """A file of joints that holds something else, other numbers than finite ones, or not enough."""

    reason = "bad-pose"


class NoPose(VideoError):
    """Joints were asked for, and not one mask of the source has a pose beside it."""

    reason = "no-pose"


class NoColours(VideoError):
    """Colours were asked for, and not one mask of the source has any beside it."""

    reason = "no-colours"


class ShardError(RaygaitError):
    """A shard on disk cannot be used."""


class SchemaMismatch(ShardError):
    """A shard's columns or types are not the ones of its format version."""


class WrongFormatVersion(ShardError):
    """A shard says a format version that this raygait does not know."""


class CorruptShard(ShardError):
    """A page, a frame or a digest does not check out."""


class SettingsMismatch(ShardError):
    """A folder of shards was written with other settings than the ones asked for now."""


class EmbeddingsError(RaygaitError):
    """A folder of embeddings cannot be written here, or what it holds cannot be trusted."""


class RecipeError(RaygaitError):
    """A recipe, an override or a recipe file is not valid."""


class ModelInputError(RaygaitError, ValueError):
    """A tensor does not fit the model: rank, channels, size, length or values."""


class ClusterTooSmall(RaygaitError):
    """The workers that were asked for cannot be placed; Ray would wait for ever."""


class TrainingError(RaygaitError):
    """A run cannot start, cannot continue, or its result cannot be trusted."""


class UntrustedStep(TrainingError):
    """A step's loss or gradient is not finite or has exploded; all workers raise it together."""


class RegistryError(RaygaitError):
    """A model version cannot be written, found or trusted."""
