"""What connects to Distiller: its masks bit for bit, its schedules in YAML, and the program itself where it is installed."""
