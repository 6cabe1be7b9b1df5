"""Where a cut hurts: every group alone, at several ratios, judged by a metric or by the distance to the dense outputs."""
