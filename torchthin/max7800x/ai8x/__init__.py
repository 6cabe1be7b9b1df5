"""Stand-ins for the layers of ADI's ai8x-training; the tools of ADI themselves are never imported."""
