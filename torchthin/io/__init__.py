"""Files and what comes from outside: checkpoints, calibration data, model factories, exports, other processes."""
