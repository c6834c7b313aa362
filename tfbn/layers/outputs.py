"""What a model gives, scores or probabilities, read from the operations that compute it."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

SOFTMAX, SIGMOID, SCORES, CONSTANT = "softmax", "sigmoid", "scores", "constant"
# The kinds that TensorFlow's operations make whatever they take. Those in no table make scores of scores,
# and what they make of probabilities is not known.
KINDS = {
    **dict.fromkeys(["Softmax"], SOFTMAX),
    **dict.fromkeys(["Conv2D", "Conv3D", "DepthwiseConv2dNative", "BiasAdd", "FusedBatchNormV3"], SCORES),
    **dict.fromkeys(["LogSoftmax", "SquaredDifference", "Rsqrt"], SCORES),
    **dict.fromkeys(["Sigmoid"], SIGMOID),
    **dict.fromkeys(
        ["Const", "Fill", "OnesLike", "ZerosLike", "Shape", "Range", "ReadVariableOp"], CONSTANT
    ),
    # A function, a branch or a loop hides what it computes, and Exp is the half of a softmax.
    **dict.fromkeys(["PartitionedCall", "StatefulPartitionedCall", "XlaLaunch", "If", "StatelessIf"]),
    **dict.fromkeys(["Case", "StatelessCase", "While", "StatelessWhile", "TensorListStack"]),
    **dict.fromkeys(["TensorListGetItem", "PyFunc", "PyFuncStateless", "EagerPyFunc", "Exp"]),
}
LINEAR = ("AddV2", "AddN", "Add", "Mul", "RealDiv")
# Those whose result is of the kind of what they take.
KEEPING = (
    *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape", "Cast"),
    *("Reshape", "Squeeze", "ExpandDims", "Transpose", "ConcatV2", "Pack", "Unpack", "Split", "SplitV"),
    *("StridedSlice", "Slice", "GatherV2", "Tile", "BroadcastTo", "Pad", "PadV2", "MirrorPad", "ReverseV2"),
    *("Roll", "TopKV2", "Abs", "Mean", "Sum", "Max", "Min", "Maximum", "Minimum"),
    *("AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D"),
    *("ClipByValue", "Relu", "Pow", "SelectV2", "Placeholder", *LINEAR),
)
PRODUCTS = ("MatMul", "BatchMatMulV2", "Einsum")


def output_kind(model: keras.Model, inputs: Any) -> str | None:
    """Return "softmax" or "sigmoid" where `model` gives such probabilities, "scores" for logits, or None.

    The graph of operations before the output tells: probabilities that are reshaped, averaged, clipped or
    cast stay such. None stands for what the graph does not tell: a loop, a branch or a Python function
    decides, probabilities are joined with scores, or there are several outputs.

    Args:
        model: the model, which is traced in inference; its state does not change.
        inputs: arrays, tensors or `tf.TensorSpec` that it takes: one, or a list or dict.

    >>> i = keras.Input([2])
    >>> p = keras.layers.Reshape([3])(keras.layers.Dense(3, "softmax")(i))
    >>> output_kind(keras.Model(i, p), np.zeros([1, 2], "float32"))
    'softmax'
    """
    specs = keras.tree.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), inputs)

    @tf.autograph.experimental.do_not_convert
    def run(x):
        return model(x, training=False)

    def kind():
        traced = tf.function(run).get_concrete_function(specs)
        examples = traced.inputs[: len(tf.nest.flatten(specs))]
        kinds = {tensor.ref(): SCORES for tensor in examples}
        return _kind(traced.outputs[0], kinds) if len(traced.outputs) == 1 else None

    if (visible := kind()) is not None or tf.config.functions_run_eagerly():
        return visible
    # Perhaps a tf.function hides it: run as Python, its operations are in the graph.
    tf.config.run_functions_eagerly(True)
    try:
        return kind()
    finally:
        tf.config.run_functions_eagerly(False)


def _kind(tensor: tf.Tensor, kinds: dict[Any, str | None]) -> str | None:
    """Return the kind of a tensor; `kinds` has those that are known, and takes up more."""
    key = tensor.ref()
    if key not in kinds:
        kinds[key] = _compute_kind(tensor.op, kinds)
    return kinds[key]


def _compute_kind(operation: tf.Operation, kinds: dict[Any, str | None]) -> str | None:
    name, inputs = operation.type, list(operation.inputs)
    if name in KINDS:
        return KINDS[name]
    if name == "RealDiv" and _is_sum_of(inputs[1], inputs[0]):
        return SOFTMAX
    if name == "RealDiv" and inputs[0].op.type == "Relu6":
        return SIGMOID  # Keras' hard_sigmoid
    if name in KEEPING:
        if name in LINEAR and _leaves_unit_interval(name, inputs, kinds):
            return None
        values = inputs[1:] if name == "SelectV2" else inputs
        return _join(name, [kind for kind in (_kind(value, kinds) for value in values) if kind != CONSTANT])
    if name == "Sub" and _kind(inputs[0], kinds) == CONSTANT and _kind(inputs[1], kinds) == SIGMOID:
        return SIGMOID  # 1 - p
    if name == "Log" and _kind(inputs[0], kinds) == SOFTMAX:
        return SCORES  # Its logarithms are logits, those of a sigmoid are not.
    if name == "Sub":
        return SCORES
    if name in PRODUCTS and any(_kind(value, kinds) in (CONSTANT, SCORES) for value in inputs[::-1]):
        return SCORES  # By a kernel, or of scores that probabilities weigh; the kernel comes last.
    return SCORES if {_kind(value, kinds) for value in inputs} <= {SCORES, CONSTANT} else None


def _leaves_unit_interval(name, inputs, kinds):
    """Return whether a constant factor or summand may take probabilities out of 0 to 1."""
    constants = [value for value in inputs if _kind(value, kinds) == CONSTANT]
    others = {_kind(value, kinds) for value in inputs} - {CONSTANT}
    if not constants or not others <= {SOFTMAX, SIGMOID}:
        return False
    value = tf.get_static_value(constants[0])
    if value is None:
        return True
    least, most = np.min(value), np.max(value)
    return bool({"Mul": least < 0 or most > 1, "RealDiv": least < 1}.get(name, least < 0 or most > 1e-3))


def _join(name: str, kinds: list[str | None]) -> str | None:
    """Return the kind of the result of a keeping operation, by the kinds of its inputs but constants."""
    different = set(kinds)
    if not different:
        return CONSTANT
    if SCORES in different and name in LINEAR:
        return SCORES
    if len(different) > 1 or (name in ("Mul", "RealDiv") and len(kinds) > 1):
        return None
    return kinds[0]


def _is_sum_of(total: tf.Tensor, tensor: tf.Tensor) -> bool:
    """Return whether `total` is the sum over axes of `tensor`, to which a constant may be added."""
    while total.op.type in ("AddV2", "Maximum", "Identity"):
        total = total.op.inputs[0]
    return total.op.type == "Sum" and total.op.inputs[0] is tensor


def gives_probabilities(model: keras.Model, inputs: Any, outputs: np.ndarray) -> bool:
    """Return whether a model gives probabilities, by its graph or by an array of its `outputs`.

    Several outputs that sum to one are probabilities; a single output between 0 and 1 may be a logit.
    """
    if output_kind(model, inputs) in (SOFTMAX, SIGMOID):
        return True
    sums_to_one = np.allclose(outputs.sum(-1), 1, atol=1e-2)
    return outputs.shape[-1] > 1 and bool((outputs >= 0).all()) and bool(sums_to_one)
