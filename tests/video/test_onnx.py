"""Users' networks by path, on graphs built here: each computes what it gives from the pixels."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raygait.assets import asset
from raygait.errors import AssetError
from raygait.video.detection import Detections, make_detector
from raygait.video.onnx_detection import OnnxDetector
from raygait.video.onnx_networks import OnnxNetwork, OnnxPose, OnnxSegmenter

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a graph, given as ONNX text and its constants, and return its path."""

    def save_below_tmp(signature: str, nodes: str, /, **constants: object) -> Path:
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 21]> g {signature} {{ {nodes} }}'
        )
        for name, value in constants.items():
            array = np.asarray(value)
            array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save_model(model, path)
        return path

    return save_below_tmp


# Detector graphs: the box of what is red is a person (class 0), of what is blue a thing (class 1).

HEIGHT_PX, WIDTH_PX = 96, 160
CELLS = np.array(
    [
        (column, row, stride)
        for stride in (8, 16, 32)
        for row, column in itertools.product(range(HEIGHT_PX // stride), range(WIDTH_PX // stride))
    ]
)
BLOB = """
    {name}_plane = Gather <axis = 1> (x, {plane})
    {name}_other = Gather <axis = 1> (x, {other})
    {name}_excess = Sub ({name}_plane, {name}_other)
    {name}_is_strong = Greater ({name}_excess, low)
    {name}_is_in_range = LessOrEqual ({name}_excess, high)
    {name}_is_it = And ({name}_is_strong, {name}_is_in_range)
    {name}_mask = Cast <to = 1> ({name}_is_it)
    {name}_columns = ReduceMax <keepdims = 0> ({name}_mask, axis_h)
    {name}_rows = ReduceMax <keepdims = 0> ({name}_mask, axis_w)
    {name}_from_left = Mul ({name}_columns, right_edges)
    {name}_from_right = Mul ({name}_columns, from_right)
    {name}_from_top = Mul ({name}_rows, lower_edges)
    {name}_from_below = Mul ({name}_rows, from_below)
    {name}_x1 = ReduceMax ({name}_from_left)
    {name}_x0_back = ReduceMax ({name}_from_right)
    {name}_y1 = ReduceMax ({name}_from_top)
    {name}_y0_back = ReduceMax ({name}_from_below)
    {name}_high = Concat <axis = 1> ({name}_x1, {name}_y1)
    {name}_back = Concat <axis = 1> ({name}_x0_back, {name}_y0_back)
    {name}_low = Sub (size, {name}_back)
    {name}_is_there = ReduceMax <keepdims = 0> ({name}_mask)
"""
ROWS = """
    high_if_red = Mul (is_red, red_high)
    high_if_blue = Mul (is_blue, blue_high)
    box_high = Add (high_if_red, high_if_blue)
    low_if_red = Mul (is_red, red_low)
    low_if_blue = Mul (is_blue, blue_low)
    box_low = Add (low_if_red, low_if_blue)
    doubled = Add (box_high, box_low)
    centres = Mul (doubled, half)
    raw_sides = Sub (box_high, box_low)
    sides = Max (raw_sides, one)
    corner = Slice (x, corner_start, corner_end, corner_axes)
    corner_grey = ReduceMean <keepdims = 0> (corner)
    grey_error = Sub (corner_grey, grey)
    grey_distance = Abs (grey_error)
    is_grey = Less (grey_distance, tolerance)
    padded = Cast <to = 1> (is_grey)
    there = Mul (padded, red_is_there)
    objectness = Mul (ones, there)
    score = Mul (is_red, objectness)
"""
OUTPUTS = {
    "yolox": """
        in_strides = Div (centres, strides)
        offsets = Sub (in_strides, corners)
        sides_in_strides = Div (sides, strides)
        logarithms = Log (sides_in_strides)
        rows = Concat <axis = 1> (offsets, logarithms, objectness, is_red, is_blue)
        y = Unsqueeze (rows, axis_0)
    """,
    "yolox-decoded": """
        rows = Concat <axis = 1> (centres, sides, objectness, is_red, is_blue)
        y = Unsqueeze (rows, axis_0)
    """,
    "yolov8": """
        thing = Mul (is_blue, objectness)
        rows = Concat <axis = 1> (centres, sides, score, thing)
        columns = Transpose (rows)
        y = Unsqueeze (columns, axis_0)
    """,
    "nms": """
        first = Slice (box_low, zero, three)
        second = Slice (box_high, zero, three)
        certain = Slice (objectness, zero, three)
        kind = Slice (is_blue, zero, three)
        rows = Concat <axis = 1> (first, second, certain, kind)
        y = Unsqueeze (rows, axis_0)
    """,
}


def blob_detector(
    save: Save, boxes: str, *, is_free: bool = False, type_: str = "float", score: float = 0.9
) -> Path:
    is_yolox = boxes.startswith("yolox")
    top = 255.0 if is_yolox else 1.0
    red, blue = (2, 0) if is_yolox else (0, 2)
    is_red = (np.arange(len(CELLS)) % 2 == 0)[:, None].astype(float)
    size = "h, w" if is_free else f"{HEIGHT_PX}, {WIDTH_PX}"
    graph = BLOB.format(name="red", plane=f"plane_{red}", other=f"plane_{blue}")
    graph += BLOB.format(name="blue", plane=f"plane_{blue}", other=f"plane_{red}")
    return save(
        f"({type_}[1, 3, {size}] image) => ({type_}[1, a, b] result)",
        f"x = Cast <to = 1> (image) {graph} {ROWS} {OUTPUTS[boxes]} "
        f"result = Cast <to = {TensorProto.FLOAT16 if type_ == 'float16' else 1}> (y)",
        **{"plane_0": 0, "plane_2": 2, "axis_h": [1], "axis_w": [2], "axis_0": [0]},
        **{"low": 0.6 * top, "high": 1.01 * top, "size": [[1.0 * WIDTH_PX, 1.0 * HEIGHT_PX]]},
        **{"right_edges": 1.0 + np.arange(WIDTH_PX), "lower_edges": 1.0 + np.arange(HEIGHT_PX)},
        **{"from_right": WIDTH_PX - 1.0 * np.arange(WIDTH_PX)},
        **{"from_below": HEIGHT_PX - 1.0 * np.arange(HEIGHT_PX)},
        **{"is_red": is_red, "is_blue": 1 - is_red, "half": 0.5, "one": 1.0},
        # Where the grey must be: below the image, or above and below it.
        corner_start=[HEIGHT_PX - 30 if is_yolox else 0],
        corner_end=[HEIGHT_PX if is_yolox else 16],
        corner_axes=[2],
        **{"grey": 114 / 255 * top, "tolerance": 0.002 * top},
        **{"ones": score * np.ones((len(CELLS), 1)), "zero": [0], "three": [3]},
        **{"strides": 1.0 * CELLS[:, 2:], "corners": 1.0 * CELLS[:, :2]},
    )


def scene() -> np.ndarray:
    """320×120, half of which is 160×60: a red person and a blue thing."""
    image = np.full((120, 320, 3), 90, np.uint8)
    image[40:100, 100:140] = (255, 0, 0)
    image[20:110, 240:300] = (0, 0, 255)
    return image


@pytest.mark.parametrize("boxes", list(OUTPUTS))
@pytest.mark.parametrize("type_", ["float", "float16"])
def test_a_person_is_found_where_they_are_whatever_the_output_means(
    save: Save, boxes, type_
) -> None:
    found = OnnxDetector(blob_detector(save, boxes, type_=type_), boxes)(scene())
    if boxes == "nms":  # two of its three rows are the person; it is not suppressed again
        assert len(found) == 2
    else:
        assert len(found) == 1
    np.testing.assert_allclose(found.boxes_px[0], (100, 40, 140, 100), atol=1)
    assert found.scores[0] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("boxes", list(OUTPUTS))
def test_nobody_is_found_where_nobody_is(save: Save, boxes) -> None:
    found = OnnxDetector(blob_detector(save, boxes), boxes)(np.full((120, 320, 3), 90, np.uint8))
    assert found.boxes_px.shape == (0, 4)


def test_a_frame_smaller_than_the_input_is_enlarged(save: Save) -> None:
    image = np.ascontiguousarray(scene()[::4, ::4])
    found = OnnxDetector(blob_detector(save, "yolov8"), "yolov8")(image)
    np.testing.assert_allclose(found.boxes_px[0], (25, 10, 35, 25), atol=0.6)


def test_weak_boxes_are_left_out(save: Save) -> None:
    path = blob_detector(save, "yolox", score=0.3)
    assert len(OnnxDetector(path, "yolox", min_score=0.31)(scene())) == 0
    assert len(OnnxDetector(path, "yolox", min_score=0.29)(scene())) == 1


def test_an_input_of_free_size_is_taken_as_640(save: Save) -> None:
    path = save(
        "(float[1, 3, h, w] x) => (float[1, a, 6] y)",
        "s = Shape <start = 2> (x) f = Cast <to = 1> (s) z = Mul (f, half) "
        "y_ = Concat <axis = 0> (z, f, rest) y = Reshape (y_, shape)",
        **{"half": 0.5, "rest": [0.9, 0.0], "shape": [1, 1, 6]},
    )
    # Of a square frame of 320, all is input: (320, 320, 640, 640) is its lower right quarter.
    found = OnnxDetector(path, "nms")(np.zeros((320, 320, 3), np.uint8))
    np.testing.assert_allclose(found.boxes_px, [(160, 160, 320, 320)])


def test_make_detector_takes_the_file_and_what_it_means(save: Save) -> None:
    path = blob_detector(save, "yolov8")
    detector = make_detector("onnx", onnx_path=str(path), onnx_boxes="yolov8")
    assert detector.name == "onnx"
    detector.reset()
    found: Detections = detector(scene())
    np.testing.assert_allclose(found.boxes_px, [(100, 40, 140, 100)], atol=1)


def test_an_onnx_detector_needs_a_file_and_a_known_form(save: Save) -> None:
    with pytest.raises(ValueError, match="needs onnx_path"):
        make_detector("onnx")
    with pytest.raises(ValueError, match="expected one of yolox, yolox-decoded, yolov8, nms"):
        OnnxDetector(blob_detector(save, "yolox"), "yolov5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made_for", "said", "message"),
    [
        ("yolox-decoded", "yolox", "boxes with sides from .* to inf px, expected positive"),
        ("yolox", "yolox-decoded", "boxes with sides from -"),
        ("yolov8", "yolox", r"shape \[1, 6, 315\] for an input of 96×160, expected .*315 cells"),
        ("yolox", "yolov8", r"shape \[1, 315, 7\] .*expected \[1, 4 \+ classes, cells\]"),
        ("yolox", "nms", r"expected \[1, boxes, 6\]"),
    ],
)
def test_an_output_of_another_form_is_refused(save: Save, made_for, said, message) -> None:
    # Red both as RGB and as BGR, for input of either range: the form alone is wrong.
    path = save(
        f"(float[1, 3, {HEIGHT_PX}, {WIDTH_PX}] x) => (float[1, a, b] y)",
        "any = ReduceMean <keepdims = 0> (x) none = Mul (any, nought) y = Add (rows, none)",
        nought=0.0,
        rows=_rows(made_for),
    )
    with pytest.raises(AssetError, match=message):
        OnnxDetector(path, said)(scene())


def _rows(boxes: str) -> np.ndarray:
    """The same box of 300×30 px in every cell."""
    strides = CELLS[:, 2:]
    certain, is_person = np.full((len(CELLS), 1), 0.9), np.ones((len(CELLS), 1))
    centres, sides = np.full((len(CELLS), 2), 40.0), np.full((len(CELLS), 2), (300.0, 5.0))
    if boxes == "yolov8":
        return np.concatenate([centres, sides, certain, 0 * certain], axis=1).T[np.newaxis]
    if boxes == "yolox":
        centres, sides = centres / strides - CELLS[:, :2], np.log(sides / strides)
    return np.concatenate([centres, sides, certain, is_person, 0 * certain], axis=1)[np.newaxis]


def test_a_box_much_larger_than_the_frame_is_let_go_and_the_others_stay(save: Save) -> None:
    rows = np.array([[[10, 10, 40, 90, 0.9, 0], [-1e6, -1e6, 1e6, 1e6, 0.9, 0]]], np.float32)
    path = save(
        f"(float[1, 3, {HEIGHT_PX}, {WIDTH_PX}] x) => (float[1, 2, 6] y)",
        "any = ReduceMean <keepdims = 0> (x) none = Mul (any, nought) y = Add (rows, none)",
        nought=0.0,
        rows=rows,
    )
    found = OnnxDetector(path, "nms")(np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8))
    np.testing.assert_allclose(found.boxes_px, [(10, 10, 40, 90)])


def test_scores_that_are_no_probabilities_are_refused(save: Save) -> None:
    with pytest.raises(AssetError, match=r"scores from .* to 3, expected 0\.\.1.*form yolov8"):
        OnnxDetector(blob_detector(save, "yolov8", score=3.0), "yolov8")(scene())


def test_an_input_that_strides_do_not_divide_is_refused(save: Save) -> None:
    path = save("(float[1, 3, 100, 160] x) => (float[1, a, b] y)", "y = Squeeze (x)")
    with pytest.raises(AssetError, match="input is 100×160, expected multiples of 32"):
        OnnxDetector(path, "yolox")


# Pose graph: 17 colours, each a joint; 1.2 where a cell has the joint's colour, less than 0 if not.

COLOURS = np.array([(15 * joint, 255 - 15 * joint, (60 * joint) % 256) for joint in range(17)])


def pose_graph(save: Save, *, type_: str = "float", size: str = "256, 192") -> Path:
    return save(
        f"({type_}[n, 3, {size}] image) => ({type_}[n, 17, h, w] y)",
        "x = Cast <to = 1> (image) scaled = Mul (x, deviation) rgb = Add (scaled, mean) "
        "cells = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (rgb) "
        "errors = Sub (cells, colours) sizes = Abs (errors) "
        "distances = ReduceSum <keepdims = 0> (sizes, axis) steep = Mul (distances, ten) "
        "maps = Sub (most, steep) all = Unsqueeze (maps, first) "
        f"y = Cast <to = {TensorProto.FLOAT16 if type_ == 'float16' else 1}> (all)",
        **{"deviation": np.reshape(DEVIATION, (1, 3, 1, 1)), "axis": [1], "first": [0]},
        **{"mean": np.reshape(MEAN, (1, 3, 1, 1)), "ten": 20.0, "most": 1.2},
        colours=COLOURS[:, :, None, None] / 255,
    )


def marked_crop() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A grey crop with a marker of each joint's colour in a cell, and the cells' rows, columns."""
    crop = np.full((256, 256, 3), 128, np.uint8)
    cells = [(3 * joint + 5, (7 * joint) % 48) for joint in range(17)]
    for (row, column), colour in zip(cells, COLOURS, strict=True):
        crop[4 * row : 4 * row + 4, 32 + 4 * column : 36 + 4 * column] = colour
    return crop, cells


@pytest.mark.parametrize("type_", ["float", "float16"])
@pytest.mark.parametrize("size", ["256, 192", "h, w"])
def test_heatmaps_peak_at_the_joints_and_are_cut_at_0_and_1(save: Save, type_, size) -> None:
    crop, cells = marked_crop()
    heatmaps = OnnxPose(pose_graph(save, type_=type_, size=size))(crop)
    assert heatmaps.shape == (17, 64, 48)
    assert heatmaps.dtype == np.uint8
    for heatmap, (row, column) in zip(heatmaps, cells, strict=True):
        assert np.argwhere(heatmap > 0).tolist() == [[row, column]]
        assert heatmap[row, column] == 255


# Segmenter graphs: what is more red than half is person, ten a unit of the logit.


def segmenter_graph(
    save: Save, *, size: str, channels: int = 1, last: str = "", halves: bool = False
) -> Path:
    nodes = (
        "scaled = Mul (x, deviation) rgb = Add (scaled, mean) red = Slice (rgb, at, end, axis) "
        "more = Sub (red, half) logit = Mul (more, ten) "
    )
    if halves:
        nodes += "small = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (logit) "
    nodes += f"one = Identity ({'small' if halves else 'logit'}) "
    nodes += "minus = Neg (one) two = Concat <axis = 1> (minus, one) "
    given = "one" if channels == 1 else "two"
    if last:
        nodes += f"last = {last} ({given}) y = Cast <to = 1> (last)"
    else:
        nodes += f"y = Identity ({given})"
    return save(
        f"(float[n, 3, {size}] x) => (float[n, {channels}, h2, w2] y)",
        nodes,
        **{"deviation": np.reshape(DEVIATION, (1, 3, 1, 1)), "ten": 10.0, "half": 0.5},
        **{"mean": np.reshape(MEAN, (1, 3, 1, 1)), "at": [0], "end": [1], "axis": [1]},
    )


@pytest.mark.parametrize(
    ("channels", "last"),
    [(1, ""), (1, "Sigmoid"), (2, ""), (2, "Softmax <axis = 1>")],
    ids=["logit", "probability", "two logits", "two probabilities"],
)
@pytest.mark.parametrize("size", ["256, 256", "128, 128", "h, w", "384, 192"])
@pytest.mark.parametrize("halves", [False, True], ids=["whole", "half"])
def test_a_mask_is_where_a_person_is_more_likely_than_not(
    save: Save, size, channels, last, halves
) -> None:
    # 0.52 of red is a logit of 0.2 and a probability of 0.55; 0.45 is -0.5 and 0.38.
    crop = np.full((256, 256, 3), 115, np.uint8)
    crop[64:192, 96:160, 0] = 133
    mask = OnnxSegmenter(
        segmenter_graph(save, size=size, channels=channels, last=last, halves=halves)
    )(crop)
    assert mask.dtype == bool
    expected = np.zeros((256, 256), bool)
    expected[64:192, 96:160] = True
    wrong = mask ^ expected
    # Where the output is coarser, the edge is found to within its pixel.
    assert not wrong[68:188, 100:156].any()
    wrong[60:196, 92:164] = False
    assert not wrong.any()


# What is refused.

# The same again, in a way that the runtime cannot tell its shape before it runs.
UNTOLD_SHAPE = (
    "sizes = Shape (x) numbers = Cast <to = 1> (sizes) again = Cast <to = 7> (numbers) "
    "y = Reshape (x, again)"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file or directory.; name an ONNX file"),
        (b"", "not an ONNX file .no graph in it."),
        (b"weights of my network\n", "not an ONNX file"),
    ],
    ids=["no file", "an empty file", "a text"],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content, message) -> None:
    path = tmp_path / "mine.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AssetError, match=message) as caught:
        OnnxPose(path)
    assert str(path) in str(caught.value)


def test_a_folder_a_part_of_a_file_and_a_tflite_file_are_refused(
    tmp_path: Path, save: Save
) -> None:
    with pytest.raises(AssetError, match="cannot be read"):
        OnnxNetwork(tmp_path)
    whole = pose_graph(save)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(AssetError, match="not an ONNX file"):
        OnnxNetwork(whole)
    with pytest.raises(AssetError, match="not an ONNX file"):
        OnnxNetwork(asset("blazepose-landmark-full"))


@pytest.mark.parametrize("place", ["initialiser", "attribute"])
def test_weights_in_another_file_are_refused(tmp_path: Path, place) -> None:
    tensor = numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "weights")
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    nodes = [helper.make_node("Add", ["x", "weights"], ["y"])]
    if place == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["weights"], value=tensor))
    shape = [1, 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [tensor] if place == "initialiser" else [],
    )
    path = tmp_path / "mine.onnx"
    path.write_bytes(
        helper.make_model(
            graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
        ).SerializeToString()
    )
    with pytest.raises(AssetError, match=r"weights are in another file \(weights\.bin\)"):
        OnnxNetwork(path)


@pytest.mark.parametrize(
    ("signature", "nodes", "message"),
    [
        (
            "(float[1, 3, 8, 8] x, float[1] size) => (float[1, 3, 8, 8] y)",
            "y = Mul (x, size)",
            r"2 inputs \(x, size\), expected one image",
        ),
        (
            "(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y, float[1, 3, 8, 8] z)",
            "y = Neg (x) z = Abs (x)",
            r"2 outputs \(y, z\), expected one",
        ),
        (
            "(float[1, 8, 8, 3] x) => (float[1, 8, 8, 3] y)",
            "y = Neg (x)",
            r"input x has shape \[1, 8, 8, 3\], expected \[1, 3, h, w\]; put the channels first",
        ),
        (
            "(float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y)",
            "y = Neg (x)",
            r"input x has shape \[1, 1, 8, 8\], expected \[1, 3, h, w\]",
        ),
        (
            "(float[4, 3, 8, 8] x) => (float[4, 3, 8, 8] y)",
            "y = Neg (x)",
            r"input x has shape \[4, 3, 8, 8\]",
        ),
        (
            "(float[3, h, w] x) => (float[3, h, w] y)",
            "y = Neg (x)",
            r"input x has shape \[3, \?, \?\]",
        ),
        (
            "(uint8[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y)",
            "y = Cast <to = 1> (x)",
            r"input x is tensor\(uint8\), expected tensor\(float\) or tensor\(float16\)",
        ),
        (
            "(float[1, 3, 8, 8] x) => (int64[1, 1, 8, 8] y)",
            "y = ArgMax <axis = 1> (x)",
            r"output y is tensor\(int64\), expected tensor\(float\)",
        ),
        (
            "(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y)",
            "y = Nonsense (x)",
            "ONNX Runtime .* cannot load it",
        ),
    ],
    ids=[
        *("two inputs", "two outputs", "channels last", "grey", "batch of 4", "no batch"),
        *("8 bits", "classes", "unknown operator"),
    ],
)
def test_networks_of_another_form_are_refused(save: Save, signature, nodes, message) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        OnnxNetwork(save(signature, nodes))
    assert ".onnx: " in str(caught.value)


def test_a_pose_network_of_another_size_or_number_of_joints_is_refused(save: Save) -> None:
    with pytest.raises(AssetError, match=r"input is \[384, 288\], expected \[256, 192\]"):
        OnnxPose(pose_graph(save, size="384, 288"))
    declared = save(
        "(float[n, 3, 256, 192] x) => (float[n, 133, 64, 48] y)",
        "maps = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (x) "
        "one = ReduceMean (maps, axis) y = Expand (one, shape)",
        **{"axis": [1], "shape": [1, 133, 64, 48]},
    )
    with pytest.raises(AssetError, match=r"shape \[\?, 133, 64, 48\], expected \[1, 17, 64, 48\]"):
        OnnxPose(declared)
    free = save("(float[n, 3, h, w] x) => (float[n, c, a, b] y)", UNTOLD_SHAPE)
    with pytest.raises(AssetError, match=r"shape \[1, 3, 256, 192\], expected \[1, 17, 64, 48\]"):
        OnnxPose(free)(np.zeros((256, 256, 3), np.uint8))


def test_a_segmenter_of_many_classes_is_refused(save: Save) -> None:
    many = save("(float[n, 3, 64, 64] x) => (float[n, 3, 64, 64] y)", "y = Neg (x)")
    with pytest.raises(AssetError, match=r"shape \[\?, 3, 64, 64\], expected \[1, 1, h, w\]"):
        OnnxSegmenter(many)
    free = save("(float[n, 3, h, w] x) => (float[n, c, a, b] y)", UNTOLD_SHAPE)
    with pytest.raises(AssetError, match=r"shape \[1, 3, 256, 256\], expected \[1, 1, h, w\]"):
        OnnxSegmenter(free)(np.zeros((256, 256, 3), np.uint8))


def test_a_network_that_fails_or_gives_no_numbers_is_refused_at_its_first_image(
    save: Save,
) -> None:
    image = np.zeros((3, 8, 8), np.float32)
    fixed = OnnxNetwork(
        save("(float[1, 3, h, w] x) => (float[1, 3, a, b] y)", "y = Reshape (x, s)", s=[1, 3, 4, 4])
    )
    with pytest.raises(AssetError, match=r"fails on an input of \[1, 3, 8, 8\]"):
        fixed(image)
    infinite = OnnxNetwork(
        save("(float[1, 3, h, w] x) => (float[1, 3, h, w] y)", "y = Reciprocal (x)")
    )
    with pytest.raises(AssetError, match="not finite"):
        infinite(image)
