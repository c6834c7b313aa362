"""Do the moving averages describe the data? diagnose and recalibrate."""

# The codes of findings. Here the command can read them without TensorFlow, for --fail-on.
CODES = (
    *("nan", "data", "lag", "drift", "better", "worse", "equal"),
    *("dead", "saturated", "epsilon", "noise"),
)
