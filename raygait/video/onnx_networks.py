"""A user's own networks, by path: any ONNX file of a known form, run by ONNX Runtime.

`OnnxPose` and `OnnxSegmenter` describe a crop; `onnx_detection.OnnxDetector` finds people in a
frame. A file is read once and checked before it is used; nothing is fetched, and nothing outside
of the file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from jaxtyping import Bool, Float32, UInt8
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from raygait.errors import AssetError
from raygait.video.pose import CROP_PX

_RUNTIME_ERRORS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# These move or rescale values between 0 and 1 and leave them there.
_MOVING_OPERATORS = frozenset(
    (
        *("Cast", "Flatten", "Identity", "Reshape", "Resize"),
        *("Slice", "Squeeze", "Transpose", "Unsqueeze", "Upsample"),
    )
)
_PROBABILITY_OPERATORS = frozenset(("HardSigmoid", "Sigmoid", "Softmax"))
# Of the images of ImageNet, RGB in 0..1.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# The heatmaps' 48 of 64 columns, in the crop of 256.
_POSE_COLUMNS = slice(CROP_PX // 8, CROP_PX - CROP_PX // 8)
_BLANK = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
_POSE_INPUT, _POSE_OUTPUT = (256, 192), (17, 64, 48)


class OnnxNetwork:
    """An ONNX file with one image input `[n, 3, h, w]` and one output, on one thread.

    A GPU is used where ONNX Runtime has its CUDA provider (package `onnxruntime-gpu`), else the
    CPU. Numbers may be of 32 or 16 bits, the latter are widened; n is 1 or free.

    Args:
        path: The file, whole: weights in files beside it are refused, because only the file itself
            is digested and checked.

    Attributes:
        path: The file.
        size: Height and width of the input; None where the file leaves them free.
        output_shape: Of the output as far as the file says it, None where it leaves a size free;
            None when not even the rank is known.
        gives_probabilities: The output comes from a sigmoid or a softmax.

    Raises:
        AssetError: The file cannot be read or is not such a network.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = _read(self.path)
        model = _parse(self.path, content)
        options = onnxruntime.SessionOptions()
        # As for the other networks: Ray places one actor per core.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=[name for name in wanted if name in available]
            )
        except _RUNTIME_ERRORS as error:
            raise AssetError(
                f"{self.path}: ONNX Runtime {onnxruntime.__version__} cannot load it "
                f"({_first_line(error)}); export it again"
            ) from error
        self._check_input()
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            names = ", ".join(entry.name for entry in outputs)
            raise AssetError(
                f"{self.path}: {len(outputs)} outputs ({names}), expected one; export it with the "
                "one that is meant"
            )
        if outputs[0].type not in _NUMPY_TYPES:
            raise AssetError(
                f"{self.path}: output {outputs[0].name} is {outputs[0].type}, expected "
                f"{' or '.join(_NUMPY_TYPES)}"
            )
        declared = model.graph.output[0].type.tensor_type
        self.output_shape = _sizes(outputs[0].shape) if declared.HasField("shape") else None
        self.gives_probabilities = _last_operator(model.graph) in _PROBABILITY_OPERATORS

    def __call__(self, image: Float32[np.ndarray, "3 h w"]) -> Float32[np.ndarray, ...]:
        """The output for one image, with the leading axis that the file gives it.

        Raises:
            AssetError: The network refuses the image's size, or gives values that are not finite.
        """
        try:
            (output,) = self._session.run(
                None, {self._input: image[np.newaxis].astype(self._input_type)}
            )
        except _RUNTIME_ERRORS as error:
            raise AssetError(
                f"{self.path}: fails on an input of {[1, *image.shape]} ({_first_line(error)})"
            ) from error
        if not np.isfinite(output).all():
            raise AssetError(
                f"{self.path}: gives values that are not finite; if it is of 16 bits, export it "
                "with 32"
            )
        result: np.ndarray = output.astype(np.float32)
        return result

    def _check_input(self) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs)
            raise AssetError(f"{self.path}: {len(inputs)} inputs ({names}), expected one image")
        (entry,) = inputs
        if entry.type not in _NUMPY_TYPES:
            raise AssetError(
                f"{self.path}: input {entry.name} is {entry.type}, expected "
                f"{' or '.join(_NUMPY_TYPES)}"
            )
        shape = _sizes(entry.shape)
        if len(shape) != 4 or shape[0] not in (1, None) or shape[1] not in (3, None):
            hint = "; put the channels first" if len(shape) == 4 and shape[3] == 3 else ""
            raise AssetError(
                f"{self.path}: input {entry.name} has shape {_shown(shape)}, expected "
                f"[1, 3, h, w]{hint}"
            )
        self._input, self._input_type = entry.name, _NUMPY_TYPES[entry.type]
        self.size = (shape[2], shape[3])


class OnnxPose:
    """HRNet or ViTPose of 256×192, with 17 heatmaps of 64×48 in COCO's order.

    Sun et al., Deep High-Resolution Representation Learning for Human Pose Estimation, CVPR 2019;
    Xu et al., ViTPose, NeurIPS 2022. The network sees columns 32 to 224 of the crop, so that its
    own heatmaps are stored, and no resampling of them. Values are taken as probabilities, as these
    networks are trained to give them, and cut off at 0 and 1.

    Args:
        path: Input `[n, 3, 256, 192]`, RGB, normalised by ImageNet's mean and deviation; output
            `[n, 17, 64, 48]`.

    Raises:
        AssetError: The file cannot be read or is not such a network.
    """

    def __init__(self, path: str | Path) -> None:
        self._network = OnnxNetwork(path)
        for got, wanted in zip(self._network.size, _POSE_INPUT, strict=True):
            if got not in (wanted, None):
                raise AssetError(
                    f"{path}: the input is {_shown(self._network.size)}, expected "
                    f"{_shown(_POSE_INPUT)} (height, width)"
                )
        if self._network.output_shape is not None:
            self._check(self._network.output_shape)
        self(_BLANK)  # what the file leaves open shows in its answer

    def __call__(self, crop: UInt8[np.ndarray, "256 256 3"]) -> UInt8[np.ndarray, "17 64 48"]:
        """Heatmaps of the person in the middle of an RGB crop, 255 = 1.0."""
        output = self._network(_normalised(crop[:, _POSE_COLUMNS]))
        self._check(output.shape)
        heatmaps: np.ndarray = np.rint(255 * np.clip(output[0], 0, 1)).astype(np.uint8)
        return heatmaps

    def _check(self, shape: tuple[int | None, ...]) -> None:
        wanted = (1, *_POSE_OUTPUT)
        if len(shape) != len(wanted) or any(
            got not in (size, None) for got, size in zip(shape, wanted, strict=True)
        ):
            raise AssetError(
                f"{self._network.path}: the output has shape {_shown(shape)}, expected "
                f"{_shown(wanted)}, heatmaps of COCO's 17 joints"
            )


class OnnxSegmenter:
    """Any network that parts a person from the background.

    Args:
        path: Input `[n, 3, h, w]`, RGB, normalised by ImageNet's mean and deviation; the crop is
            scaled to h×w, or to 256×256 where the file leaves them free. Output `[n, 1, h', w']`:
            probability of a person if a sigmoid or softmax comes last in the file, else its logit;
            or `[n, 2, h', w']`: background and person, probabilities or logits. The output is
            scaled to the crop before it is compared, so that edges do not become stairs.

    Raises:
        AssetError: The file cannot be read or is not such a network.
    """

    def __init__(self, path: str | Path) -> None:
        self._network = OnnxNetwork(path)
        self._size = tuple(CROP_PX if size is None else size for size in self._network.size)
        self._threshold = 0.5 if self._network.gives_probabilities else 0.0
        shape = self._network.output_shape
        if shape is not None:
            self._check(shape)
        self(_BLANK)  # what the file leaves open shows in its answer

    def __call__(self, crop: UInt8[np.ndarray, "256 256 3"]) -> Bool[np.ndarray, "256 256"]:
        """The pixels of an RGB crop that are more likely person than not."""
        height_px, width_px = self._size
        output = self._network(_normalised(_scaled(crop, height_px, width_px)))
        self._check(output.shape)
        maps = output[0]
        margin = maps[1] - maps[0] if len(maps) == 2 else maps[0] - self._threshold
        mask: np.ndarray = _scaled(margin, CROP_PX, CROP_PX) > 0
        return mask

    def _check(self, shape: tuple[int | None, ...]) -> None:
        if len(shape) != 4 or shape[0] not in (1, None) or shape[1] not in (1, 2, None):
            raise AssetError(
                f"{self._network.path}: the output has shape {_shown(shape)}, expected "
                "[1, 1, h, w] (person) or [1, 2, h, w] (background, person)"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror}); name an ONNX file") from error


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise AssetError(
            f"{path}: not an ONNX file ({error}); export the network to ONNX"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise AssetError(f"{path}: not an ONNX file (no graph in it); export the network to ONNX")
    elsewhere = {
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if elsewhere:
        raise AssetError(
            f"{path}: its weights are in another file ({', '.join(sorted(elsewhere))}), expected "
            "one file; save it with onnx.save_model(..., save_as_external_data=False)"
        )
    return model


def _tensors(message: Message) -> Iterable[onnx.TensorProto]:
    """Every tensor in a model, wherever: initialisers, attributes, subgraphs, functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else (value,):
            yield from _tensors(part)


def _last_operator(graph: onnx.GraphProto) -> str:
    """The operator that decides the range of the graph's first output; empty if there is none."""
    makers = {name: node for node in graph.node for name in node.output}
    name = graph.output[0].name
    while name in makers and makers[name].op_type in _MOVING_OPERATORS:
        name = makers[name].input[0]
    return str(makers[name].op_type) if name in makers else ""


def _sizes(shape: Iterable[int | str | None]) -> tuple[int | None, ...]:
    """Sizes as ONNX Runtime says them, free ones (a name or nothing) as None."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _shown(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _normalised(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "3 h w"]:
    scaled: np.ndarray = (image.astype(np.float32) / 255 - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _scaled(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    shrinks = height_px < image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: np.ndarray = cv2.resize(image, (width_px, height_px), interpolation=how)
    return scaled
