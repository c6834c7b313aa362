"""Do the moving averages describe the data? diagnose and recalibrate."""
