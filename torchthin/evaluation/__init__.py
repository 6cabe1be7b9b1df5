"""How good and how fast a model is: the distance or a metric, the sensitivity of groups, latency and memory."""
